"""What a daemon finds out before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
import pytest
import structlog.testing

from propfan.engine.cluster import POD, TASK_ACTION, Kind
from propfan.engine.config import EngineConfig
from propfan.engine.daemon import preflight
from propfan.engine.daemon.preflight import Right
from propfan.engine.kubernetes.cluster import AccessReview
from propfan.pluginmachinery import entries
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import (
    ApiError,
    ConfigError,
    ForbiddenError,
    KindNotServedError,
    UnauthorizedError,
    UnavailableError,
)
from propfan.pluginmachinery.kubernetes_plugin import KubernetesPlugin
from propfan.pluginmachinery.registry import Registry, SetupContext

pytestmark = pytest.mark.anyio

RAY = Kind("ray.io", "v1", "RayJob", "rayjobs")


class Section(msgspec.Struct):
    asks: bool = True


class Server:
    """Answers of an API server; ``lacking`` are the rights that we have not."""

    server = "https://server"

    def __init__(self, *names: str | Exception, lacking: set[tuple[str, str, str]] | None = None) -> None:
        self.names = list(names)
        self.lacking = lacking or set()
        self.served = True
        self.review_error: ApiError | None = None

    async def user_name(self) -> str:
        name = self.names.pop(0)
        if isinstance(name, Exception):
            raise name
        return name

    async def check_served(self, kind: Kind) -> None:
        if not self.served:
            raise KindNotServedError(str(kind), "no such kind")

    async def review_access(
        self, verb: str, kind: Kind, *, namespace: str = "", name: str = "", subresource: str = ""
    ) -> AccessReview:
        if self.review_error is not None:
            raise self.review_error
        resource = f"{kind.plural}/{subresource}" if subresource else kind.plural
        return AccessReview((verb, resource, namespace) not in self.lacking)


async def test_a_server_is_waited_for_until_it_knows_us(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(delay: float) -> None:
        waits.append(delay)

    monkeypatch.setattr(anyio, "sleep", sleep)
    server = Server(
        UnavailableError("x", "refused"), UnauthorizedError("x", "who?"), "system:anonymous", *[UnavailableError("x", "y")] * 9, "me"
    )  # fmt: skip
    assert await preflight.await_server(server) == "me"  # type: ignore[arg-type]
    assert len(waits) == 12
    assert max(waits) == 5.0


async def test_a_server_that_does_not_tell_names_is_taken_as_it_is() -> None:
    assert await preflight.await_server(Server(ForbiddenError("x", "no"))) == ""  # type: ignore[arg-type]


async def test_a_missing_definition_is_told_with_the_way_out() -> None:
    server: Any = Server()
    await preflight.check_definitions(server)
    server.served = False
    with pytest.raises(ConfigError, match=r"propfan manifests \| kubectl apply -f -"):
        await preflight.check_definitions(server)


def test_rights_are_asked_for_where_they_are_needed() -> None:
    everywhere = preflight.rights([POD], (), "leases")
    assert Right("", "pods", "create", "") in everywhere
    assert Right("coordination.k8s.io", "leases", "patch", "leases") in everywhere
    assert Right("flyte.org", "taskactions/status", "patch", "") in everywhere
    narrow = preflight.rights([POD, RAY], ("a", "b"), "leases")
    assert {right.namespace for right in narrow} == {"a", "b", "leases"}
    assert Right("ray.io", "rayjobs", "watch", "b") in narrow
    assert not any(right.resource == "secrets" for right in narrow)


async def test_missing_rights_are_told_as_rules() -> None:
    lacking = {("create", "pods", "a"), ("patch", "pods", "a"), ("patch", "taskactions/status", "")}
    server: Any = Server(lacking=lacking)
    needed = [*preflight.rights([POD], ("a",), "a"), Right(TASK_ACTION.group, "taskactions/status", "patch")]
    with pytest.raises(ConfigError) as caught:
        await preflight.check_rights(server, needed, "system:serviceaccount:a:b")
    assert str(caught.value).splitlines() == [
        "kubernetes: system:serviceaccount:a:b may not 'create' pods (and 2 more rights are missing); add",
        "# rules of a ClusterRole",
        '- {apiGroups: ["flyte.org"], resources: [taskactions/status], verbs: [patch]}',
        "# rules of a Role in namespace a",
        '- {apiGroups: [""], resources: [pods], verbs: [create, patch]}',
    ]


def never_loaded(_: SetupContext) -> KubernetesPlugin:
    raise AssertionError("nobody loads it here")


def reads(sections: Mapping[str, Any]) -> set[Right]:
    """The rights to definitions, with a plugin that asks about RayJobs when its section says so."""
    registry = Registry()
    entry = entries.KubernetesPluginEntry(
        id="ray",
        task_types=("ray",),
        watched=RAY,
        load=never_loaded,
        probes_definition=lambda given: decode_config(Section, given.get("ray"), "plugins.ray").asks,
    )
    registry.register(entry)
    config = EngineConfig(plugins=dict(sections))
    needed = preflight.needed_rights(config, K8sConfig(), registry, "leases")
    return {right for right in needed if right.resource == "customresourcedefinitions"}


def test_a_definition_is_read_only_for_a_plugin_that_asks_about_it() -> None:
    right = Right("apiextensions.k8s.io", "customresourcedefinitions", "get", "", "rayjobs.ray.io")
    assert reads({}) == {right}
    assert reads({"ray": {"asks": False}}) == set()
    assert reads({"ray": {"asks": "what?"}}) == set()


async def test_a_definition_that_may_not_be_read_stops_nothing() -> None:
    server: Any = Server(lacking={("get", "customresourcedefinitions", "")})
    with structlog.testing.capture_logs() as logs:
        await preflight.check_rights(server, sorted(reads({})), "me")
    [warning] = [log for log in logs if log["log_level"] == "warning"]
    assert warning["add"].endswith(
        "resources: [customresourcedefinitions], resourceNames: [rayjobs.ray.io], verbs: [get]}"
    )


async def test_a_server_that_does_not_review_is_trusted() -> None:
    server: Any = Server()
    server.review_error = ForbiddenError("SelfSubjectAccessReview", "no")
    await preflight.check_rights(server, preflight.rights([POD], (), "a"), "me")
