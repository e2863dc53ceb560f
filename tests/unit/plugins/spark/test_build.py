from __future__ import annotations

from typing import Any

import msgspec
import pytest
import structlog.testing
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.contexts import TaskOverrides
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.testing import FakeTaskContext, task_metadata
from tests.unit.plugins.spark.tasks import FILE, Crds, document, spark_plugin, spark_task, spec_of

pytestmark = pytest.mark.anyio

OWN_POD = {
    "podSpec": {"containers": [{"name": "spark-kubernetes-driver", "image": "own"}], "nodeSelector": {"disk": "ssd"}}
}
SPOT = decode_config(
    K8sConfig,
    {
        "interruptible-tolerations": [{"key": "spot", "operator": "Exists"}],
        "interruptible-node-selector-requirement": {"key": "spot", "operator": "Exists"},
        "non-interruptible-node-selector-requirement": {"key": "spot", "operator": "DoesNotExist"},
    },
    "plugins.k8s",
)


def context(template: tasks_pb2.TaskTemplate | None = None, **metadata: Any) -> FakeTaskContext:
    made = template or spark_task()
    return FakeTaskContext(made, metadata=msgspec.structs.replace(task_metadata(made), **metadata))


def keys_of(role: dict[str, Any]) -> list[str]:
    terms = role["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [expression["operator"] for term in terms for expression in term["matchExpressions"]]


async def test_only_executors_may_be_interrupted() -> None:
    spec = await spec_of(spark_plugin(k8s=SPOT), context(interruptible=True))
    assert "tolerations" not in spec["driver"]
    assert spec["executor"]["tolerations"] == [{"key": "spot", "operator": "Exists"}]
    assert keys_of(spec["driver"]) == ["DoesNotExist"]
    assert keys_of(spec["executor"]) == ["Exists"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("PYTHON", "Python"), ("JAVA", "Java"), ("SCALA", "Scala"), ("R", "R"), (99, "Python"), (None, "Python")],
)
async def test_kind_of_application(kind: str | int | None, expected: str) -> None:
    custom = {"mainApplicationFile": FILE} if kind is None else {"mainApplicationFile": FILE, "applicationType": kind}
    assert (await spec_of(spark_plugin(), context(spark_task(custom))))["type"] == expected


@pytest.mark.parametrize(
    ("custom", "problem"),
    [
        ({"sparkConf": {}}, "either MainApplicationFile or MainClass must be set"),
        ({"mainApplicationFile": 5}, "mainApplicationFile"),
        ({"mainApplicationFile": FILE, "applicationType": "COBOL"}, "applicationType.*COBOL"),
        ({"mainApplicationFile": FILE, "sparkConf": "x"}, "sparkConf"),
        ({"mainApplicationFile": FILE, "driverPod": {"podSpec": {"containers": 1}}}, "driver pod spec.*containers"),
        ({"mainApplicationFile": FILE, "executorPod": {"podSpec": {"containers": 1}}}, "executor pod spec.*containers"),
    ],
)
@pytest.mark.parametrize("has_template", [True, False])
async def test_task_that_can_not_run_is_refused_by_its_field(
    custom: dict[str, Any], problem: str, has_template: Any
) -> None:
    plugin = spark_plugin(crds=Crds(has_template=has_template))
    with structlog.testing.capture_logs(), pytest.raises(BadTaskSpecificationError, match=problem):
        await plugin.build_resource(context(spark_task(custom)))


async def test_task_without_custom_is_refused() -> None:
    template = spark_task()
    template.ClearField("custom")
    with pytest.raises(BadTaskSpecificationError, match="nil Struct Object passed"):
        await spark_plugin().build_resource(context(template))


async def test_batch_scheduler_and_queue_labels_are_passed_on() -> None:
    template = spark_task({"mainApplicationFile": FILE, "sparkConf": {"spark.batchScheduler": "volcano"}})
    ctx = context(template, labels={"kueue.x-k8s.io/queue-name": "team-a"})
    plugin = spark_plugin()
    rendered = await plugin.build_resource(ctx)
    spec = document(rendered)["spec"]
    stamped = object_metadata.stamp(rendered.metadata, ctx.metadata, K8sConfig(), plugin.get_properties())
    assert spec["batchScheduler"] == "volcano"
    assert stamped.labels["kueue.x-k8s.io/queue-name"] == "team-a"
    assert spec["driver"]["labels"] == spec["executor"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}


async def test_drivers_have_an_account() -> None:
    spec = await spec_of(spark_plugin(), context(k8s_service_account=""))
    assert (spec["driver"]["serviceAccount"], spec["executor"].get("serviceAccount")) == ("spark", None)
    spec = await spec_of(spark_plugin(), context(k8s_service_account="team"))
    assert (spec["driver"]["serviceAccount"], spec["executor"].get("serviceAccount")) == ("team", None)


async def test_operator_that_takes_pods_gets_them_whole() -> None:
    plugin = spark_plugin(crds=Crds())
    spec = await spec_of(plugin, context(k8s_service_account="team"))
    for role in ("driver", "executor"):
        [container] = spec[role]["template"]["spec"]["containers"]
        assert container["name"] == f"spark-kubernetes-{role}"
        assert container["image"] == "spark:1"
        assert "args" not in container
        assert spec[role]["serviceAccount"] == "team"
        assert spec["sparkConf"][f"spark.kubernetes.{role}.podTemplateContainerName"] == container["name"]
    assert spec["sparkVersion"] == "3.0.0"
    assert spec["arguments"] == ["a0", "--inputs", context().paths.input]


async def test_own_pod_is_passed_as_it_is() -> None:
    template = spark_task({"mainApplicationFile": FILE, "driverPod": OWN_POD, "executorPod": {"metadata": {}}})
    spec = await spec_of(spark_plugin(crds=Crds()), context(template))
    own = spec["driver"]["template"]["spec"]
    assert own.keys() == {"enableServiceLinks", "nodeSelector", "containers"}
    assert own["nodeSelector"] == {"disk": "ssd"}
    assert [(c["name"], c["image"]) for c in own["containers"]] == [("spark-kubernetes-driver", "own")]
    assert spec["executor"]["template"]["spec"]["containers"][0]["image"] == "spark:1"


@pytest.mark.parametrize(
    ("section", "why"), [({}, "older than 2"), ({"enable_pod_template": False}, "enable-pod-template is false")]
)
async def test_own_pods_that_are_not_used_are_warned_of(section: dict[str, Any], why: str) -> None:
    plugin = spark_plugin(crds=Crds(has_template=bool(section)), **section)
    template = spark_task({"mainApplicationFile": FILE, "driverPod": OWN_POD})
    with structlog.testing.capture_logs() as logs:
        spec = await spec_of(plugin, context(template))
        await spec_of(plugin, context())
    assert "template" not in spec["driver"]
    assert spec["sparkVersion"] == ""
    [warning] = logs
    assert why in warning["why"]


async def test_image_of_the_execution_wins() -> None:
    template = spark_task()
    metadata = task_metadata(template)
    assert metadata.overrides is not None
    overrides = msgspec.structs.replace(metadata.overrides, container_image="other:2")
    assert isinstance(overrides, TaskOverrides)
    spec = await spec_of(spark_plugin(), context(template, overrides=overrides))
    assert {spec["image"], spec["driver"]["image"], spec["executor"]["image"]} == {"other:2"}


async def test_plan_says_of_other_executions_what_the_plain_conversion_says() -> None:
    planned = spark_plugin(crds=Crds(), k8s=SPOT)
    template = spark_task()
    for number in range(4):
        metadata = {
            "labels": {"run": f"r{number}", "attempt": str(number)},
            "annotations": {"note": 'a "quoted" note' if number == 2 else ""},
            "max_attempts": number + 1,
            "interruptible": number > 1,
            "environment_variables": {"A": str(number)},
        }
        ctx = context(template, **metadata)
        ctx.now = ctx.next_round(after_s=float(number)).now
        plain = await spark_plugin(crds=Crds(), k8s=SPOT).build_resource(ctx)
        for _ in range(2):
            assert document(await planned.build_resource(ctx)) == document(plain)
