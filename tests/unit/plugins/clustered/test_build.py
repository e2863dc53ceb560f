"""What a clustered task becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.contexts import ExecutionId, NodeExecutionId
from propfan.pluginmachinery.errors import BadTaskSpecificationError, TransientError
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.pluginmachinery.testing.builders import task_metadata
from propfan.plugins.clustered import ClusteredPlugin
from tests.unit.plugins.clustered import job_sets

pytestmark = pytest.mark.anyio


async def built(template: tasks_pb2.TaskTemplate, *, name: str = "r1-a0-0", **environment: str) -> dict[str, Any]:
    """The JobSet of the third build, which comes from a plan; the first one is the same."""
    metadata = task_metadata(template, generated_name=name)
    metadata = msgspec.structs.replace(
        metadata, environment_variables={**metadata.environment_variables, **environment}
    )
    plugin, ctx = ClusteredPlugin(setup_context()), FakeTaskContext(template, metadata=metadata)
    first, _, third = [(await plugin.build_resource(ctx)).to_json() for _ in range(3)]
    assert first == third
    made: dict[str, Any] = msgspec.json.decode(third)
    return made


def pod_of(job_set: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job_set["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    return found


def environment_of(job_set: dict[str, Any]) -> list[tuple[str, str]]:
    entries = pod_of(job_set)["containers"][0]["env"]
    return [(e["name"], e.get("value", e.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath"))) for e in entries]


async def test_as_many_pods_as_nodes_in_one_indexed_job() -> None:
    job_set = await built(job_sets.TASK)
    (workers,) = job_set["spec"]["replicatedJobs"]
    job = {name: value for name, value in workers["template"]["spec"].items() if name != "template"}
    assert (workers["name"], workers["replicas"]) == ("workers", 1)
    assert job == {"parallelism": 2, "completions": 2, "completionMode": "Indexed", "backoffLimit": 0}
    assert pod_of(job_set)["restartPolicy"] == "Never"
    assert pod_of(job_set)["subdomain"] == job_set["metadata"]["name"] == "r1-a0-0"
    assert job_set["spec"]["failurePolicy"] == {"maxRestarts": 3}
    assert job_set["metadata"]["labels"] == {"flyte.org/execution": "r1"}


async def test_pods_are_told_how_to_meet() -> None:
    job_set = await built(job_sets.task(replicas=3, nprocPerNode=8, runtime={"torchrun": {"rdzvBackend": "C10D"}}))
    assert environment_of(job_set)[-8:] == [
        ("NNODES", "3"),
        ("NPROC_PER_NODE", "8"),
        ("MASTER_PORT", "29500"),
        ("RDZV_BACKEND", "c10d"),
        ("JOBSET_MAX_RESTARTS", "0"),
        ("JOBSET_NAME", "metadata.labels['jobset.sigs.k8s.io/jobset-name']"),
        ("JOBSET_RESTART_ATTEMPT", "metadata.annotations['jobset.sigs.k8s.io/restart-attempt']"),
        ("POD_NAMESPACE", "metadata.namespace"),
    ]


async def test_what_the_task_sets_itself_is_replaced_where_it_stands() -> None:
    template = job_sets.task(replicas=2, nprocPerNode=1)
    template.container.env.add(key="NNODES", value="1")
    job_set = await built(template, MASTER_PORT="1", ZZZ="last")
    environment = environment_of(job_set)
    assert environment[:2] == [("A", "b"), ("NNODES", "2")]
    assert [value for name, value in environment if name == "MASTER_PORT"] == ["29500"]
    assert environment.index(("MASTER_PORT", "29500")) < environment.index(("ZZZ", "last"))


async def test_long_names_leave_room_for_what_the_controllers_append() -> None:
    job_set = await built(job_sets.TASK, name="r" * 60 + "-0")
    name = job_set["metadata"]["name"]
    assert len(f"{name}-workers-0-99999-abcde") <= 63
    assert pod_of(job_set)["subdomain"] == name


async def test_a_run_name_becomes_a_label() -> None:
    metadata = task_metadata(job_sets.TASK)
    node = NodeExecutionId("a0", ExecutionId("p", "d", "run of Ärger_"))
    execution = msgspec.structs.replace(metadata.task_execution_id.id, node_execution_id=node)
    named = msgspec.structs.replace(
        metadata, task_execution_id=msgspec.structs.replace(metadata.task_execution_id, id=execution)
    )
    ctx = FakeTaskContext(job_sets.TASK, metadata=named)
    job_set = await ClusteredPlugin(setup_context()).build_resource(ctx)
    assert job_set.metadata.labels == {"flyte.org/execution": "run-of--rgerx"}


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        ({"replicas": "many"}, "invalid ClusteredTaskSpec: .*replicas"),
        ({"replicas": 0, "nprocPerNode": 1}, "replicas must be >= 1, got 0"),
        ({"replicas": 100_001, "nprocPerNode": 1}, "replicas must be <= 100000, got 100001"),
        ({"replicas": 1, "nprocPerNode": -1}, "nproc_per_node must be >= 1, got -1"),
        (
            {"replicas": 1, "nprocPerNode": 1, "failurePolicy": {"maxRestarts": -2}},
            r"failure_policy\.max_restarts must be >= 0, got -2",
        ),
        (
            {"replicas": 1, "nprocPerNode": 1, "ttlSecondsAfterFinished": 2**31},
            "ttl_seconds_after_finished 2147483648 exceeds maximum allowed value",
        ),
    ],
)
async def test_numbers_out_of_range_are_refused_by_name(custom: dict[str, Any], said: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=said):
        await built(job_sets.task(**custom))


async def test_a_task_without_a_container_is_refused() -> None:
    template = job_sets.task(replicas=1, nprocPerNode=1)
    template.ClearField("container")
    with pytest.raises(BadTaskSpecificationError, match=r"failed to build pod spec: \[BadTaskSpecification\] invalid"):
        await built(template)


async def test_a_store_that_is_down_refuses_no_task() -> None:
    template = job_sets.task(replicas=1, nprocPerNode=1)
    template.container.args.append("{{.inputs.x}}")
    with pytest.raises(TransientError):
        await ClusteredPlugin(setup_context()).build_resource(FakeTaskContext(template).with_failing_ports())
