"""DaskJobs: what the vectors do not hold, or where propfan says more than the backend."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError
from propfan.pluginmachinery.testing import FakeTaskContext, problems_of_object, task_metadata
from propfan.plugins.dask import DaskConfig
from tests.peers.sdk_templates.recorded import Recorded, recorded
from tests.unit.plugins.dask.tasks import containers, dask_plugin, dask_task, document, spec_of

pytestmark = pytest.mark.anyio

SDK = recorded("dask")


def test_both_generations_of_the_sdk_are_recorded() -> None:
    assert {task.name.partition("-")[0] for task in SDK} == {"flyte1", "flyte2"}


@pytest.mark.parametrize("task", SDK, ids=lambda task: task.name)
async def test_what_sdks_serialise_becomes_a_job(task: Recorded) -> None:
    made = document(await dask_plugin().build_resource(FakeTaskContext(task.message)))
    assert problems_of_object(made, max_name_length=53) == ()
    parts = containers(made["spec"])
    assert parts["job-runner"]["args"][0] in {"a0", "pyflyte-execute"}
    assert parts["scheduler"]["args"][:2] == ["dask", "scheduler"]
    assert parts["dask-worker"]["args"][:2] == ["dask", "worker"]
    assert made["spec"]["cluster"]["spec"]["worker"]["replicas"] >= 1


@pytest.mark.parametrize("task", [t for t in SDK if t.name.endswith("full")], ids=lambda task: task.name)
async def test_settings_of_the_sdk_arrive(task: Recorded) -> None:
    parts = containers(await spec_of(dask_plugin(), task.message))
    custom = task.message.custom
    for part, name in (("scheduler", "scheduler"), ("workers", "dask-worker")):
        assert parts[name]["image"] == custom[part]["image"]  # type: ignore[index]
        assert parts[name]["resources"]["limits"]


async def test_parts_have_their_own_resources_and_images() -> None:
    resources = {"limits": [{"name": "CPU", "value": "1500m"}, {"name": "MEMORY", "value": "2048Mi"}]}
    custom = {"workers": {"numberOfWorkers": 2, "image": "own:1", "resources": resources}}
    spec = await spec_of(dask_plugin(), dask_task(custom, limits={"cpu": "4"}))
    parts = containers(spec)
    worker = parts["dask-worker"]
    assert worker["image"] == "own:1"
    assert worker["args"] == [
        "dask", "worker", "--name", "$(DASK_WORKER_NAME)", "--nthreads", "2", "--memory-limit", "2Gi"
    ]  # fmt: skip
    assert worker["resources"] == {
        "requests": {"cpu": "1500m", "memory": "2Gi"}, "limits": {"cpu": "1500m", "memory": "2Gi"}
    }  # fmt: skip
    assert parts["scheduler"]["image"] == parts["job-runner"]["image"] == "dask:1"
    assert parts["scheduler"]["resources"]["limits"]["cpu"] == "4"
    assert [spec["cluster"]["spec"]["worker"]["spec"]["restartPolicy"], spec["job"]["spec"]["restartPolicy"]] == [
        "Always",
        "Never",
    ]


async def test_only_workers_may_be_interrupted() -> None:
    template = dask_task()
    metadata = msgspec.structs.replace(task_metadata(template), interruptible=True)
    k8s = K8sConfig(interruptible_node_selector={"spot": "yes"})
    spec = await spec_of(dask_plugin(k8s=k8s), template, metadata=metadata)
    cluster = spec["cluster"]["spec"]
    assert cluster["worker"]["spec"]["nodeSelector"] == {"spot": "yes"}
    assert "nodeSelector" not in cluster["scheduler"]["spec"]
    assert "nodeSelector" not in spec["job"]["spec"]


async def named(name: str) -> dict[str, Any]:
    template = dask_task()
    metadata = task_metadata(template, generated_name=name)
    return await spec_of(dask_plugin(), template, metadata=metadata)


async def test_a_long_name_is_bounded_so_that_the_operator_takes_it() -> None:
    service = (await named("r" * 60))["cluster"]["spec"]["scheduler"]["service"]
    assert len(service["selector"]["dask.org/cluster-name"]) <= 53
    service = (await named("r" * 53))["cluster"]["spec"]["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == "r" * 53


async def test_a_name_that_is_no_container_s_is_good_enough() -> None:
    service = (await named("Run-1_X"))["cluster"]["spec"]["scheduler"]["service"]
    assert service["selector"]["dask.org/cluster-name"] == "run-1x"


async def test_a_name_that_the_operator_never_takes_is_refused_with_the_way_out() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"takes no job called 'r1\.a0-0': choose a run"):
        await named("r1.a0-0")


def links(*uris: str) -> dict[str, Any]:
    return {"logs": {"templates": [{"templateUris": [uri], "linkType": "dashboard"} for uri in uris]}}


@pytest.mark.parametrize(
    ("uri", "args"),
    [
        ("https://d.io/{{.namespace}}/{{.generatedName}}/status", ["--dashboard-prefix", "/project-domain/r1-a0-0"]),
        ("https://d.io/x%20y/status/status", ["--dashboard-prefix", "/x y/status"]),
        ("https://u:p@d.io:80/x?a=/b#/c", ["--dashboard-prefix", "/x"]),
        ("https://[::1]:80/x", ["--dashboard-prefix", "/x"]),
        ("d/x", ["--dashboard-prefix", "d/x"]),
        ("https://d.io/status", []),
        ("https://d.io", []),
        ("mailto:x", []),
    ],
)
async def test_scheduler_serves_its_dashboard_where_the_link_leads(uri: str, args: list[str]) -> None:
    plugin = dask_plugin(**links(uri, "https://second/y"))
    for _ in range(3):
        spec = await spec_of(plugin, dask_task())
        assert containers(spec)["scheduler"]["args"] == ["dask", "scheduler", *args]


@pytest.mark.parametrize(
    "uri",
    ["https://bad host/x", "https://d.io/%zz", "https://d.io:port/x", "1a:b/c", "https://d.io/\n", "https://{{.x}}/y"],
)
async def test_a_dashboard_s_link_that_is_no_url_is_told(uri: str) -> None:
    with pytest.raises(PermanentError, match=r"the link to the dashboard .* is no URL"):
        await spec_of(dask_plugin(**links(uri)), dask_task())


async def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(BadTaskSpecificationError, match="failed to unmarshal, caused by: nil Struct"):
        await spec_of(dask_plugin(), dask_task({}))
    with pytest.raises(BadTaskSpecificationError, match=r"custom\.workers: expected an object"):
        await spec_of(dask_plugin(), dask_task({"workers": 3}))
    bad = {"workers": {"resources": {"limits": [{"name": "CPU", "value": "many"}]}}}
    with pytest.raises(PermanentError, match="Failed to parse resource as a valid quantity"):
        await spec_of(dask_plugin(), dask_task(bad))
    with pytest.raises(ConfigError, match=r"plugins\.dask\.log: no such setting, did you mean logs"):
        decode_config(DaskConfig, {"log": {}}, "plugins.dask")


async def test_plans_say_what_the_plain_conversion_says_of_other_executions() -> None:
    template = dask_task()
    plugin = dask_plugin(**links("https://d.io/{{.generatedName}}/status"))
    for number in range(4):
        metadata = task_metadata(template, generated_name=f"r{number}-a0-0")
        planned = await spec_of(plugin, template, metadata=metadata)
        plain = await spec_of(
            dask_plugin(**links("https://d.io/{{.generatedName}}/status")), template, metadata=metadata
        )
        assert planned == plain
