"""What pods get, what they are refused for, and what no answer ever holds."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flyteidl2.core.security_pb2 import Secret

from propfan.engine.clock import SystemClock
from propfan.engine.cluster import TASK_ACTION, Kind, ObservedObject
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.secret_managers.kubernetes import SECRET, KubernetesSecrets
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.secrets import FileEnvSecrets
from propfan.engine.webhook.admission import Admission
from propfan.engine.webhook.managers import EmbeddedSource, GlobalSource, KubernetesSource, SecretSource
from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.errors import DecodeError, UnavailableError

pytestmark = pytest.mark.anyio

VALUE = "s3cr3t-value"
PREFIX = "_UNION_"


class Stage:
    """A cluster with one task, ``default/r-a0`` of project ``p`` and domain ``d``, and the admission of its pods."""

    def __init__(self, cluster: EmbeddedCluster, uid: str, folder: Path) -> None:
        self.cluster = cluster
        self.uid = uid
        self.secrets = KubernetesSecrets(cluster, SystemClock(), 60.0)
        local = FileEnvSecrets({"FLYTE_SECRET_DB_TOKEN": VALUE}, folder)
        self.sources: list[SecretSource] = [
            GlobalSource(local, PREFIX),
            EmbeddedSource(self.secrets, "flyte", PREFIX),
            KubernetesSource(self.secrets, PREFIX),
        ]
        self.admission = Admission(cluster, self.sources, "flyte")

    async def keep(self, name: str, data: Mapping[str, bytes], namespace: str = "flyte") -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "data": {key: b64encode(value).decode() for key, value in data.items()},
        }
        await self.cluster.create(SECRET, json.dumps(body).encode())

    async def keep_scoped(self, name: str, value: bytes = VALUE.encode(), scope: SecretScope | None = None) -> None:
        identifier = (scope or SecretScope("flyte", "p", "d")).id_of(name)
        await self.keep(object_name(identifier), {identifier: value})

    def pod(self, *wanted: Secret, is_owned: bool = True, **spec: Any) -> dict[str, Any]:
        owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": "r-a0", "uid": self.uid}
        return {
            "metadata": {
                "name": "r-a0-0",
                "labels": {secrets.INJECT_LABEL: "true", "organization": "flyte", "project": "p", "domain": "d"},
                "annotations": secrets.to_annotations(wanted),
                "ownerReferences": [owner] if is_owned else [],
            },
            "spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "b"}]}], **spec},
        }

    async def ask(self, pod: Mapping[str, Any], **request: Any) -> dict[str, Any]:
        asked = {"uid": "u", "namespace": "default", "object": pod, **request}
        answer = await self.admission.review(msgspec.json.encode({"request": asked}))
        assert VALUE.encode() not in answer
        assert b64encode(VALUE.encode()) not in answer
        response: dict[str, Any] = msgspec.json.decode(answer)["response"]
        assert response["uid"] == "u"
        return response

    async def admitted(self, pod: dict[str, Any], **request: Any) -> dict[str, Any]:
        """The pod's spec afterwards."""
        response = await self.ask(pod, **request)
        assert response["allowed"], response
        for operation in json.loads(b64decode(response.get("patch", "W10="))):
            pod["spec"][operation["path"].removeprefix("/spec/")] = operation["value"]
        spec: dict[str, Any] = pod["spec"]
        return spec

    async def copies(self) -> list[ObservedObject]:
        return list((await self.cluster.list(SECRET, namespace="default")).items)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    async with EmbeddedCluster.open() as cluster:
        spec = {"project": "p", "domain": "d"}
        metadata = {"name": "r-a0", "namespace": "default"}
        body = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "metadata": metadata, "spec": spec}
        task = await cluster.create(TASK_ACTION, json.dumps(body).encode())
        yield Stage(cluster, task.metadata.uid, tmp_path)


def variable(spec: Mapping[str, Any], name: str) -> dict[str, Any]:
    (found,) = [each for each in spec["containers"][0]["env"] if each["name"] == name]
    return dict(found)


async def test_variables_come_first_and_take_the_place_of_others(stage: Stage) -> None:
    await stage.keep_scoped("token")
    pod = stage.pod(Secret(key="token", env_var="A"), initContainers=[{"name": "i"}])
    spec = await stage.admitted(pod)
    assert [each["name"] for each in spec["containers"][0]["env"]] == ["A", "FLYTE_SECRETS_ENV_PREFIX"]
    assert "secretKeyRef" in variable(spec, "A")["valueFrom"]
    assert spec["initContainers"][0]["env"] == spec["containers"][0]["env"]


async def test_the_same_again_changes_nothing(stage: Stage) -> None:
    await stage.keep_scoped("token")
    pod = stage.pod(Secret(key="token"), Secret(key="token", mount_requirement=Secret.FILE))
    await stage.admitted(pod)
    assert "patch" not in await stage.ask(pod)


async def test_pods_of_a_task_share_one_copy_that_it_owns(stage: Stage) -> None:
    await stage.keep_scoped("one")
    await stage.keep_scoped("two")
    await stage.admitted(stage.pod(Secret(key="one")))
    await stage.admitted(stage.pod(Secret(key="one"), Secret(key="two")))
    (copy,) = await stage.copies()
    assert [owner.uid for owner in copy.metadata.owner_references] == [stage.uid]
    assert len(json.loads(copy.raw)["data"]) == 2


async def test_nothing_is_written_for_a_dry_run_and_nothing_where_the_secret_is_at_hand(stage: Stage) -> None:
    await stage.keep_scoped("token")
    await stage.admitted(stage.pod(Secret(key="token")), dryRun=True)
    assert await stage.copies() == []
    await stage.keep("db", {"Password": b"x"}, "default")
    spec = await stage.admitted(stage.pod(Secret(key="Password", group="db", mount_requirement=Secret.ENV_VAR)))
    reference = variable(spec, "_UNION_DB_PASSWORD")["valueFrom"]["secretKeyRef"]
    assert reference == {"name": "db", "key": "Password"}
    assert [copy.metadata.name for copy in await stage.copies()] == ["db"]


async def test_global_ones_go_first_and_are_no_files(stage: Stage) -> None:
    spec = await stage.admitted(stage.pod(Secret(key="token", group="db")))
    assert "secretKeyRef" in variable(spec, "_UNION_DB_TOKEN")["valueFrom"]
    refused = await stage.ask(stage.pod(Secret(key="token", group="db", mount_requirement=Secret.FILE)))
    assert "global secrets can only be injected as environment variables" in refused["status"]["message"]


async def test_pods_of_operators_belong_to_the_task_that_their_labels_name(stage: Stage) -> None:
    await stage.keep_scoped("token")
    pod = stage.pod(Secret(key="token"), is_owned=False)
    pod["metadata"]["labels"] |= {"run": "r", "action": "a0"}
    pod["metadata"]["ownerReferences"] = [{"apiVersion": "ray.io/v1", "kind": "RayCluster", "name": "x", "uid": "y"}]
    await stage.admitted(pod)
    (copy,) = await stage.copies()
    assert copy.metadata.owner_references[0].uid == stage.uid


async def test_scope_is_that_of_the_task_whatever_the_pod_says(stage: Stage) -> None:
    await stage.keep_scoped("theirs", scope=SecretScope("flyte", "other", "d"))
    pod = stage.pod(Secret(key="theirs"))
    pod["metadata"]["labels"]["project"] = "other"
    assert (await stage.ask(pod))["status"]["code"] == 403
    pod["metadata"]["ownerReferences"] = []
    assert "belongs to no TaskAction" in (await stage.ask(pod))["status"]["message"]


async def test_a_missing_secret_is_refused_with_all_places(stage: Stage) -> None:
    refused = await stage.ask(stage.pod(Secret(key="token", group="none")))
    assert not refused["allowed"]
    assert (refused["status"]["code"], refused["status"]["reason"]) == (403, "Forbidden")
    message = refused["status"]["message"]
    assert message.startswith("none of the secret managers injected secret [none/token]: Global: secrets not found")
    assert "(flyte/p/d)" in message
    assert "in namespace flyte" in message
    assert "Secret default/none with key token" in message


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (Secret(key="binary"), "mount it as a file"),
        (Secret(key="../up", mount_requirement=Secret.FILE), "can not be the name of a file"),
    ],
)
async def test_what_can_not_be_injected_is_refused(stage: Stage, wanted: Secret, text: str) -> None:
    await stage.keep_scoped("binary", b"\xff")
    await stage.keep_scoped("../up")
    assert text in (await stage.ask(stage.pod(wanted)))["status"]["message"]


async def test_unreadable_annotations_are_refused_for_good(stage: Stage) -> None:
    pod = stage.pod()
    pod["metadata"]["annotations"] = {"flyte.secrets/s0": "!"}
    assert (await stage.ask(pod))["status"]["code"] == 400


async def test_while_the_cluster_does_not_answer_pods_are_put_off(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def down(kind: Kind, namespace: str, name: str) -> ObservedObject:
        raise UnavailableError(f"{kind.kind} {namespace}/{name}", "down")

    monkeypatch.setattr(stage.cluster, "get", down)
    assert (await stage.ask(stage.pod(Secret(key="token"))))["status"]["code"] == 503


async def test_pods_that_ask_for_nothing_are_left_as_they_are(stage: Stage) -> None:
    pod = stage.pod(Secret(key="token"))
    pod["metadata"]["labels"] = {}
    assert await stage.ask(pod) == {"uid": "u", "allowed": True}
    assert await stage.ask(stage.pod()) == {"uid": "u", "allowed": True}


@pytest.mark.parametrize("body", [b"", b"{}", b'{"request": 1}', b"\xff", b"[" * 5000])
async def test_what_is_no_review_is_refused(stage: Stage, body: bytes) -> None:
    with pytest.raises(DecodeError, match="AdmissionReview"):
        await stage.admission.review(body)


async def test_a_copy_of_somebody_else_is_not_touched(stage: Stage) -> None:
    await stage.keep_scoped("token")
    spec = await stage.admitted(stage.pod(Secret(key="token")), dryRun=True)
    name = variable(spec, "_UNION_TOKEN")["valueFrom"]["secretKeyRef"]["name"]
    await stage.keep(name, {"theirs": b"x"}, "default")
    refused = await stage.ask(stage.pod(Secret(key="token")))
    assert refused["status"]["code"] == 503
    assert "does not belong to TaskAction r-a0: delete it" in refused["status"]["message"]
    (left,) = await stage.copies()
    assert list(json.loads(left.raw)["data"]) == ["theirs"]
