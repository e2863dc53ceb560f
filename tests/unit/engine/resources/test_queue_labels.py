"""Labels for Kueue, Volcano and YuniKorn, and what asks for secrets, reach the object and every pod that comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import object_metadata, objects
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.entries import KubernetesPluginEntry
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context, task_template
from propfan.pluginmachinery.testing.builders import task_metadata
from propfan.plugins import clustered, kubeflow, pod, ray, spark
from tests.unit.plugins.clustered import job_sets
from tests.unit.plugins.kubeflow import jobs
from tests.unit.plugins.ray.tasks import ray_task
from tests.unit.plugins.spark.tasks import spark_task

pytestmark = pytest.mark.anyio

QUEUE = {
    "kueue.x-k8s.io/queue-name": "gpus",
    "volcano.sh/queue-name": "gpus",
    "queue": "root.gpus",  # YuniKorn
}
SIDECAR = {"podSpec": {"containers": [{"name": "main", "image": "busybox"}]}}


SECRETS = {"flyte.secrets/s0": "n4"}


def pods_in(value: Any) -> Iterator[dict[str, Any]]:
    """Metadata of whatever pods are made from."""
    if isinstance(value, list):
        for each in value:
            yield from pods_in(each)
    if not isinstance(value, dict):
        return
    if isinstance(value.get("spec"), dict) and "containers" in value["spec"]:
        yield value.get("metadata", {})
    for name, each in value.items():
        if name in ("driver", "executor") and isinstance(each, dict):
            own = {kind: each[kind] for kind in ("labels", "annotations") if kind in each}
            yield own or (each.get("template") or {}).get("metadata", {})
        yield from pods_in(each)


CASES: dict[str, tuple[KubernetesPluginEntry, tasks_pb2.TaskTemplate, int]] = {
    "Pod": (pod.entry, task_template("python", image="busybox"), 1),
    "Pod of a template": (
        pod.entry,
        task_template("sidecar", k8s_pod=SIDECAR, config={"primary_container_name": "main"}, task_type_version=2),
        1,
    ),
    "RayJob": (ray.entry, ray_task({}, {"groupName": "w", "replicas": 2}), 2),
    "PyTorchJob": (kubeflow.pytorch_entry, jobs.PYTORCH, 2),
    "MPIJob": (kubeflow.mpi_entry, jobs.MPI, 2),
    "SparkApplication": (spark.entry, spark_task(), 2),
    "JobSet": (clustered.entry, job_sets.TASK, 1),
}


@pytest.mark.parametrize("case", CASES)
async def test_labels_of_the_queue_are_on_the_object_and_on_all_of_its_pods(case: str) -> None:
    entry, template, pods = CASES[case]
    registry = Registry()
    registry.register(entry)
    assert not registry.load(setup_context())
    loaded: Any = registry.plugins[0]
    plain = task_metadata(template)
    metadata = msgspec.structs.replace(plain, labels={**plain.labels, **QUEUE}, annotations=SECRETS)
    ctx, plugin = FakeTaskContext(template, metadata=metadata), loaded.plugin
    is_ray = isinstance(plugin, ray.RayPlugin)
    built = await (plugin.build_job_resource(ctx, "") if is_ray else plugin.build_resource(ctx))
    rendered = objects.normalise(built, entry.watched, entry.id, "build_resource")
    stamped = object_metadata.stamp(rendered.metadata, metadata, K8sConfig(), loaded.properties)
    whole = msgspec.json.decode(rendered.to_json(stamped))
    assert QUEUE.items() <= whole["metadata"]["labels"].items()
    found = list(pods_in(whole))
    assert len(found) >= pods
    assert [pod for pod in found if not QUEUE.items() <= pod["labels"].items()] == []
    assert [pod for pod in found if not SECRETS.items() <= pod["annotations"].items()] == []
