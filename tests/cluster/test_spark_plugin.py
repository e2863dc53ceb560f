"""Tasks of the Spark plugin, run by the real operator with the real ``spark-submit``: what it accepts, makes and tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import anyio
import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.engine.clock import SystemClock
from propfan.engine.crd_schemas import ClusterCrdSchemas
from propfan.engine.kubernetes.cluster import KubernetesCluster
from propfan.engine.kubernetes.config import KubernetesConfig
from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject
from propfan.pluginmachinery.phases import ErrorKind, Phase, PhaseInfo
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context, task_metadata, task_template
from propfan.plugins.spark import SparkPlugin
from propfan.plugins.spark.application import SPARK_APPLICATION
from propfan.plugins.spark.pod_template_support import FIELD
from tests.cluster.api import Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import asked
from tests.peers.sdk_templates.recorded import recorded

TASKS: Final = {task.name: task.message for task in recorded("spark")}
DEFINITION: Final = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{SPARK_APPLICATION}"


class Definitions:
    """``CrdSchemas`` of the cluster, but for what a test says is not there."""

    def __init__(self, cluster: ControlPlane, *, takes_templates: bool) -> None:
        self._api, self._takes_templates = cluster.api, takes_templates

    async def has_field(self, kind: Kind, path: str) -> bool:
        versions = self._api.get(DEFINITION)["spec"]["versions"]
        (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == kind.version and v["served"])
        for name in path.split("."):
            schema = schema.get("properties", {}).get(name, {})
        return bool(schema) and self._takes_templates


class Run:
    """One task on a cluster."""

    def __init__(
        self, cluster: ControlPlane, namespace: str, template: tasks_pb2.TaskTemplate, *, takes_templates: bool
    ) -> None:
        setup = setup_context(k8s=K8sConfig(default_annotations={}))
        definitions = Definitions(cluster, takes_templates=takes_templates)
        self.plugin = SparkPlugin(msgspec.structs.replace(setup, crds=definitions))
        self.cluster, self.namespace, self.template = cluster, namespace, template
        self.verdicts: list[PhaseInfo] = []

    def create(self, **wishes: str) -> None:
        """Creates its object; ``wishes`` are what its pods do."""
        metadata = task_metadata(self.template, namespace=self.namespace)
        self.metadata = msgspec.structs.replace(metadata, annotations=asked(**wishes))
        ctx = FakeTaskContext(self.template, metadata=self.metadata)
        built = anyio.run(self.plugin.build_resource, ctx)
        stamped = object_metadata.stamp(built.metadata, self.metadata, K8sConfig(), self.plugin.get_properties())
        whole = msgspec.json.decode(built.to_json(msgspec.structs.replace(stamped, owner_references=())))
        self.cluster.api.create(whole, namespace=self.namespace)

    @property
    def path(self) -> str:
        kind = SPARK_APPLICATION
        return f"/apis/{kind.api_version}/namespaces/{self.namespace}/{kind.plural}/r1-a0-0"

    def pods(self) -> Mapping[str, Object]:
        pods = self.cluster.api.list(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector="run=r1,action=a0")
        return {pod["metadata"]["name"]: pod for pod in pods}

    def look(self, item: Object, *, after: timedelta = timedelta(0)) -> PhaseInfo:
        """What the plugin makes of the object as it is now, or would if nothing changed for some time."""
        metadata = msgspec.convert(item["metadata"], ObjectMeta)
        resource = ObservedObject(SPARK_APPLICATION, metadata, msgspec.json.encode(item))
        ctx = FakeTaskContext(
            self.template, metadata=self.metadata, pods=list(self.pods().values()), now=datetime.now(UTC) + after
        )
        verdict = anyio.run(self.plugin.get_task_phase, ctx, resource)
        self.verdicts.append(verdict)
        assert verdict.phase.is_terminal or not self.plugin.is_terminal(resource)
        return verdict

    def until(self, phase: Phase) -> PhaseInfo:
        self.cluster.api.await_object(self.path, lambda item: self.look(item).phase is phase, timeout_s=180)
        return self.verdicts[-1]


@pytest.mark.parametrize(
    ("name", "takes_templates"),
    [
        ("flyte2-spark-default", True),
        ("flyte2-spark-full", False),
        ("flyte2-spark-pods", True),
        ("flyte1-spark-full", True),
        ("flyte1-spark-pods", False),
    ],
)
def test_task_of_an_sdk_succeeds(spark: ControlPlane, namespace: str, name: str, takes_templates: Any) -> None:
    run = Run(spark, namespace, TASKS[name], takes_templates=takes_templates)
    run.create(outcome="succeeded", run_for="2s")
    verdict = run.until(Phase.SUCCESS)
    assert {Phase.INITIALIZING, Phase.RUNNING} & {seen.phase for seen in run.verdicts}
    assert verdict.info is not None
    assert verdict.info.log_context is not None
    driver = run.pods()[verdict.info.log_context.primary_pod_name]
    assert "spark-kubernetes-driver" in {container["name"] for container in driver["spec"]["containers"]}
    owns_pod = takes_templates and name.endswith("spark-pods")
    tolerations = [toleration["key"] for toleration in driver["spec"].get("tolerations", ())]
    assert ("spot" in tolerations) is owns_pod


def test_failed_driver_fails_the_task(spark: ControlPlane, namespace: str) -> None:
    run = Run(spark, namespace, TASKS["flyte2-spark-default"], takes_templates=True)
    run.create(outcome="failed", run_for="1s")
    verdict = run.until(Phase.RETRYABLE_FAILURE)
    assert verdict.error is not None
    assert verdict.error.kind is ErrorKind.USER


def test_image_that_can_not_be_pulled_fails_the_task_though_never_the_application(
    spark: ControlPlane, namespace: str
) -> None:
    run = Run(spark, namespace, TASKS["flyte2-spark-default"], takes_templates=True)
    run.create(outcome="image-pull-error")
    later = timedelta(hours=1)
    spark.api.await_object(run.path, lambda item: run.look(item, after=later).phase.is_failure, timeout_s=180)
    assert run.verdicts[-1].error is not None
    assert "ImagePull" in run.verdicts[-1].error.code


def test_an_engine_sees_that_the_operator_takes_whole_pods(spark: ControlPlane) -> None:
    async def look() -> Sequence[bool]:
        async with KubernetesCluster.connect(KubernetesConfig(kubeconfig=str(spark.kubeconfig))) as cluster:
            crds = ClusterCrdSchemas(cluster, SystemClock())
            unknown = Kind("example.org", "v1", "Widget", "widgets")
            asked_for = [(SPARK_APPLICATION, FIELD), (SPARK_APPLICATION, "spec.driver.nothing"), (unknown, "spec")]
            return [await crds.has_field(kind, path) for kind, path in asked_for]

    assert anyio.run(look) == [True, False, False]


def test_a_class_that_the_image_has_needs_no_file(spark: ControlPlane, namespace: str) -> None:
    template = task_template("spark", image="spark", custom={"mainClass": "Main", "applicationType": "JAVA"})
    run = Run(spark, namespace, template, takes_templates=True)
    run.create(outcome="succeeded", run_for="2s")
    run.until(Phase.SUCCESS)
    (driver,) = (pod for name, pod in run.pods().items() if name.endswith("-driver"))
    arguments = next(c["args"] for c in driver["spec"]["containers"] if c["name"] == "spark-kubernetes-driver")
    assert arguments[arguments.index("--class") + 1] == "Main"
