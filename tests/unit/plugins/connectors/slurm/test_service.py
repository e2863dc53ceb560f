"""Jobs of a control plane, through the connector service."""

from __future__ import annotations

import grpc
import msgspec
import pytest
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2

from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.testing import task_template
from propfan.plugins.connectors.slurm import connectors
from tests.unit.engine.connector_service import rig
from tests.unit.plugins.connectors.slurm.cluster import KEY, SECRET, WRONG_KEY, Cluster, script_template

pytestmark = pytest.mark.anyio


async def to_the_end(client: rig.Client, meta: bytes, task_type: str = "slurm") -> connector_pb2.Resource:
    for _ in range(5):
        resource = await client.get(meta, task_type)
        if RemotePhase(resource.phase).is_terminal:
            return resource
    pytest.fail("not over")


async def test_script_runs_and_its_log_is_read(cluster: Cluster) -> None:
    config = msgspec.structs.replace(rig.CONFIG, connectors={"slurm": cluster.section()})
    async with rig.serving(*connectors, config=config, **{f"_FSEC_{SECRET}": KEY}) as service:
        meta = await service.client.create(script_template(script="seq 3"))
        resource = await to_the_end(service.client, meta)
        assert resource.phase == execution_pb2.TaskExecution.SUCCEEDED
        assert resource.custom_info["NodeList"] == "n1"
        request = connector_pb2.GetTaskLogsRequest(resource_meta=meta, task_category=rig.category("slurm"))
        pages = await rig.all_of(service.client.connector.GetTaskLogs(request))
        assert [line.message for page in pages for line in page.body.lines] == ["1", "2", "3"]
        await service.client.delete(meta, "slurm")
    assert cluster.connections == 1


async def test_both_task_types_are_served(cluster: Cluster) -> None:
    config = msgspec.structs.replace(rig.CONFIG, connectors={"slurm": cluster.section()})
    function = task_template(
        "slurm_fn",
        image="unused",
        args=("true",),
        custom={"ssh_config": {"host": "cluster"}, "script": "#!/bin/bash\n{task.fn}\n"},
    )
    async with rig.serving(*connectors, config=config, **{f"_FSEC_{SECRET}": KEY}) as service:
        meta = await service.client.create(function)
        assert (await to_the_end(service.client, meta, "slurm_fn")).phase == execution_pb2.TaskExecution.SUCCEEDED


async def test_wrong_key_is_no_use_to_try_again(cluster: Cluster) -> None:
    config = msgspec.structs.replace(rig.CONFIG, connectors={"slurm": cluster.section()})
    async with rig.serving(*connectors, config=config, **{f"_FSEC_{SECRET}": WRONG_KEY}) as service:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.client.create(script_template(script="true"))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert SECRET in (refused.value.details() or "")
