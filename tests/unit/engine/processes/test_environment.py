from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.engine.cluster import Kind
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.processes import environment, pods
from propfan.engine.processes.environment import CONFIG_MAP, SECRET, Environment, expand
from propfan.engine.processes.refusals import RefusedError
from propfan.engine.processes.statuses import PodStatus
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from tests.unit.engine.processes.machine import NAMESPACE

UNIT = 10**9


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)z", "x1y$(C)z"),
        ("$(MISSING)", "$(MISSING)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ],
)
def test_references_expand_as_on_kubernetes(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1", "B": "$(C)", "C": "no"}) == expanded


@given(st.text(alphabet="$()AB", max_size=12))
def test_doubled_dollars_are_always_text(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "1", "B": "2"}) == text


@pytest.fixture
async def cluster() -> AsyncIterator[EmbeddedCluster]:
    async with EmbeddedCluster.open() as opened:
        yield opened


async def put(cluster: EmbeddedCluster, kind: Kind, name: str, data: dict[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": kind.kind, "metadata": {"namespace": NAMESPACE, "name": name}, "data": data}
    await cluster.create(kind, json.dumps(body).encode())


async def resolved(cluster: EmbeddedCluster, **container: Any) -> Environment:
    spec = msgspec.convert(
        {"containers": [{"name": "main", **container}], "nodeName": "local", "serviceAccountName": "worker"},
        pods.PodSpec,
    )
    metadata = ObjectMeta("p", NAMESPACE, "u-1", labels={"a/b": "label"}, annotations={"c": "note"})
    pod = pods.Pod(metadata, spec, PodStatus())
    return await environment.resolve(
        cluster, pod, spec.containers[0], base={"PATH": "/bin", "A": "inherited"}, allocatable=lambda _: 8 * UNIT
    )


def field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def key(name: str, kind: str, of: str, key: str, *, optional: bool = False) -> dict[str, Any]:
    return {"name": name, "valueFrom": {kind: {"name": of, "key": key, "optional": optional}}}


@pytest.mark.anyio
async def test_later_variables_see_earlier_ones_and_commands_see_all(cluster: EmbeddedCluster) -> None:
    env = [{"name": "B", "value": "$(A)"}, {"name": "A", "value": "1"}, {"name": "C", "value": "$(A)$(PATH)"}]
    container: dict[str, Any] = {"command": ["run", "$(C)"], "args": ["$$(C)", "$(A)"], "env": env}
    found = await resolved(cluster, **container)
    assert found.own == {"A": "1", "B": "$(A)", "C": "1$(PATH)"}
    assert found.whole == {"HOSTNAME": "p", "PATH": "/bin", "A": "1", "B": "$(A)", "C": "1$(PATH)"}
    assert found.command_line(msgspec.convert({"name": "main", **container}, pods.Container)) == [
        "run",
        "1$(PATH)",
        "$(C)",
        "1",
    ]


@pytest.mark.anyio
async def test_fields_of_the_pod(cluster: EmbeddedCluster) -> None:
    paths = {
        "metadata.name": "p",
        "metadata.namespace": NAMESPACE,
        "metadata.uid": "u-1",
        "metadata.labels['a/b']": "label",
        "metadata.annotations['c']": "note",
        "metadata.labels['none']": "",
        "spec.nodeName": "local",
        "spec.serviceAccountName": "worker",
        "status.podIP": "127.0.0.1",
        "status.hostIP": "127.0.0.1",
    }
    found = await resolved(cluster, env=[field(path, path) for path in paths])
    assert found.own == paths


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("requests.memory", "1Mi", "3"),
        ("requests.memory", "0", "2621440"),
        ("limits.memory", "0", "8"),
        ("requests.cpu", "1", "2"),
    ],
)
async def test_resources_are_rounded_up_to_divisors(
    cluster: EmbeddedCluster, resource: str, divisor: str, value: str
) -> None:
    reference = {"resourceFieldRef": {"resource": resource, "divisor": divisor}}
    resources = {"limits": {"cpu": "1500m"}, "requests": {"memory": "2.5Mi"}}
    found = await resolved(cluster, env=[{"name": "R", "valueFrom": reference}], resources=resources)
    assert found.own["R"] == value


@pytest.mark.anyio
async def test_secrets_and_config_maps(cluster: EmbeddedCluster) -> None:
    await put(cluster, SECRET, "s", {"token": base64.b64encode(b"hidden").decode()})
    await put(cluster, CONFIG_MAP, "c", {"level": "debug", "token": "plain"})
    found = await resolved(
        cluster,
        envFrom=[{"configMapRef": {"name": "c"}}, {"prefix": "S_", "secretRef": {"name": "s"}}],
        env=[
            key("ONE", "secretKeyRef", "s", "token"),
            key("TWO", "configMapKeyRef", "c", "level"),
            key("THREE", "configMapKeyRef", "c", "none", optional=True),
            key("FOUR", "secretKeyRef", "none", "x", optional=True),
            {"name": "token", "value": "own and $(S_token)"},
        ],
    )
    assert found.own == {
        "level": "debug",
        "token": "own and hidden",
        "S_token": "hidden",
        "ONE": "hidden",
        "TWO": "debug",
    }


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("container", "message"),
    [
        ({"env": [key("A", "secretKeyRef", "none", "x")]}, 'secret "none" not found'),
        ({"env": [key("A", "configMapKeyRef", "none", "x")]}, 'configmap "none" not found'),
        ({"env": [key("A", "configMapKeyRef", "c", "x")]}, f"couldn't find key x in ConfigMap {NAMESPACE}/c"),
        ({"envFrom": [{"secretRef": {"name": "none"}}]}, 'secret "none" not found'),
        ({"env": [key("A", "secretKeyRef", "binary", "x")]}, "key x of Secret binary: its value is not UTF-8"),
    ],
)
async def test_what_is_missing_is_named_and_may_yet_come(
    cluster: EmbeddedCluster, container: dict[str, Any], message: str
) -> None:
    await put(cluster, CONFIG_MAP, "c", {})
    await put(cluster, SECRET, "binary", {"x": base64.b64encode(b"\xff").decode()})
    with pytest.raises(RefusedError) as caught:
        await resolved(cluster, **container)
    assert message in caught.value.message
    assert caught.value.reason == "CreateContainerConfigError"


@pytest.mark.anyio
@pytest.mark.parametrize("variable", [{"name": "A=B", "value": ""}, {"name": "A", "value": "\0"}])
async def test_what_can_be_no_variable_is_refused(cluster: EmbeddedCluster, variable: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="NUL"):
        await resolved(cluster, env=[variable])


def test_only_what_is_allowed_is_inherited_and_the_interpreter_comes_first() -> None:
    found = environment.inherited(("PATH", "LANG", "TZ"), {"PATH": "/bin", "LANG": "C", "TOKEN": "hidden"})
    assert found.keys() == {"PATH", "LANG", "FSSPEC_FILE_AUTO_MKDIR"}
    first, _, rest = found["PATH"].partition(":")
    assert (first.endswith("/bin"), rest) == (True, "/bin")
