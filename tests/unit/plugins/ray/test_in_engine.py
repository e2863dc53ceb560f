"""Ray tasks in an engine on an embedded cluster; the test is KubeRay, as far as what it writes goes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import POD
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, Kind, ObservedObject
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing.fakes import setup_context
from propfan.plugins.ray import entry
from propfan.plugins.ray.build import RAY_JOB
from propfan.plugins.ray.sharing import RAY_CLUSTER
from tests.unit.engine.reconcile.rig import Rig
from tests.unit.plugins.ray.tasks import ray_task, shared

pytestmark = pytest.mark.anyio

READY = {
    "conditions": [{"type": "HeadPodReady", "status": "True"}, {"type": "RayClusterProvisioned", "status": "True"}]
}


class RayRig(Rig):
    async def submit_ray(self, name: str, *, reuse: bool) -> None:
        template = ray_task({}, {"groupName": "w", "replicas": 1})
        serialised = (shared(template) if reuse else template).SerializeToString()
        await self.submit(name, task_type="ray", spec={"taskTemplate": serialised})

    async def objects(self, kind: Kind) -> list[ObservedObject]:
        return list((await self.truth.list(kind)).items)

    async def until_there(self, kind: Kind, count: int) -> list[ObservedObject]:
        async def are_there() -> bool:
            return len(await self.objects(kind)) == count

        await self.until(are_there)
        return await self.objects(kind)

    async def say(self, seen: ObservedObject, status: dict[str, Any]) -> None:
        meta = seen.metadata
        await self.truth.patch(seen.kind, meta.namespace, meta.name, {"status": status}, subresource="status")


@asynccontextmanager
async def engine(**settings: Any) -> AsyncIterator[RayRig]:
    config = msgspec.structs.replace(EngineConfig(workers=4, status_linger_s=0.02, cluster_sweep_s=0.05), **settings)
    registry = Registry()
    registry.register(entry)
    assert not registry.load(setup_context())
    async with EmbeddedCluster.open() as cluster, anyio.create_task_group() as group:
        made = RayRig(cluster, config, registry, None, frozenset({RAY_JOB}))
        group.start_soon(made.reconciler.run)
        yield made
        group.cancel_scope.cancel()


async def test_tasks_of_an_environment_with_reuse_share_one_cluster_from_end_to_end() -> None:
    async with engine() as it:
        for name in ("r1", "r2"):
            await it.submit_ray(name, reuse=True)
        [cluster] = await it.until_there(RAY_CLUSTER, 1)
        assert cluster.metadata.owner_references == ()
        assert await it.objects(RAY_JOB) == []
        pods = {"metadata": {"name": "head", "namespace": "default", "labels": {CLUSTER_LABEL: cluster.metadata.name}}}
        spec = {"containers": [{"name": "ray-head", "image": "ray:1"}]}
        await it.truth.create(POD, msgspec.json.encode({"apiVersion": "v1", "kind": "Pod", **pods, "spec": spec}))
        await it.say(cluster, READY)
        jobs = await it.until_there(RAY_JOB, 2)
        for job in jobs:
            written = msgspec.json.decode(job.raw)["spec"]
            assert written["clusterSelector"] == {"ray.io/cluster": cluster.metadata.name}
            status = {"jobDeploymentStatus": "Running", "rayClusterName": cluster.metadata.name}
            await it.say(job, status)
        await it.until_reason("Executing", "r1")
        for job in jobs:
            await it.say(job, {"jobDeploymentStatus": "Complete"})
        for name in ("r1", "r2"):
            await it.until_over(name)
        assert [c.metadata.uid for c in await it.objects(RAY_CLUSTER)] == [cluster.metadata.uid]


async def test_a_task_without_reuse_has_a_cluster_of_its_own() -> None:
    async with engine() as it:
        await it.submit_ray("r1", reuse=False)
        [job] = await it.until_there(RAY_JOB, 1)
        assert "rayClusterSpec" in msgspec.json.decode(job.raw)["spec"]
        assert CLUSTER_LABEL not in job.metadata.labels
        await it.say(job, {"jobDeploymentStatus": "Complete"})
        await it.until_over("r1")
        assert await it.objects(RAY_CLUSTER) == []


async def test_a_job_that_the_operator_refuses_is_told_and_removed() -> None:
    async with engine() as it:
        await it.submit_ray("r1", reuse=False)
        [job] = await it.until_there(RAY_JOB, 1)
        await it.say(
            job, {"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed", "message": "no head"}
        )
        status = await it.until_over("r1")
        assert status.error_state is not None
        assert status.error_state.message.endswith("[ValidationFailed] no head")
        assert await it.objects(RAY_JOB) == []
