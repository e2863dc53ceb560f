"""Training tasks under ``propfan serve``, with the real operators: their whole way, and what is left of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest

from propfan.pluginmachinery.testing import task_template
from tests.cluster.control_plane import ControlPlane
from tests.cluster.replicas import Control, Replica, Tasks, verdict_of
from tests.unit.engine.flyte.services import served

CUSTOM: Final[Mapping[str, Mapping[str, Any]]] = {
    "pytorch": {"workerReplicas": {"replicas": 1}, "masterReplicas": {"replicas": 1}},
    "tensorflow": {"workerReplicas": {"replicas": 1}, "psReplicas": {"replicas": 1}},
    "mpi": {"workerReplicas": {"replicas": 1}, "slots": 1},
    "clustered-task": {"replicas": 2, "nprocPerNode": 1},
}
"""By task type."""

PATHS: Final = {
    "pytorch": "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs/{}-a0-0",
    "tensorflow": "/apis/kubeflow.org/v1/namespaces/{}/tfjobs/{}-a0-0",
    "mpi": "/apis/kubeflow.org/v1/namespaces/{}/mpijobs/{}-a0-0",
    "clustered-task": "/apis/jobset.x-k8s.io/v1alpha2/namespaces/{}/jobsets/{}-a0-0",
}


@pytest.fixture(scope="module")
def tasks(kubeflow: ControlPlane, jobset: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tasks]:
    folder = tmp_path_factory.mktemp("training")
    namespace = kubeflow.create_namespace("training")
    with served(Control().app) as url:
        settings = {
            "plugins": {"k8s": {"image-pull-backoff-grace-period": "2s"}},
            "namespaces": [namespace],
            "flyte": {"events-url": url},
            "sharding": {"group": namespace},
        }
        replica = Replica("one", folder, kubeflow.kubeconfig, settings)
        replica.start()
        try:
            replica.await_ready()
            yield Tasks(kubeflow.api, namespace, f"file://{folder}/outputs")
        finally:
            replica.stop()
            kubeflow.delete_namespace(namespace)


def submit(tasks: Tasks, task_type: str, run: str, **wishes: str) -> None:
    version = 0 if task_type == "clustered-task" else 1
    template = task_template(
        task_type, image="busybox", args=["true"], custom=CUSTOM[task_type], task_type_version=version
    )
    tasks.submit(run, wishes, type=task_type, template=template.SerializeToString())


@pytest.mark.parametrize("task_type", CUSTOM)
def test_a_training_task_completes(tasks: Tasks, task_type: str) -> None:
    run = f"ok-{task_type}"
    submit(tasks, task_type, run, outcome="succeeded", run_for="2s")
    status = tasks.await_over(run)
    assert verdict_of(status) == "Completed"
    assert [entry["phase"] for entry in status["phaseHistory"]][-2:] == ["Executing", "Completed"]


@pytest.mark.parametrize("task_type", CUSTOM)
def test_a_pod_without_its_image_ends_the_task_and_its_job(tasks: Tasks, task_type: str) -> None:
    """Neither operator looks at why a pod waits, so that its job would wait for ever."""
    run = f"bad-{task_type}"
    submit(tasks, task_type, run, outcome="image-pull-error")
    status = tasks.await_over(run)
    code = status["errorState"]["code"]
    assert (verdict_of(status), code) == ("PermanentFailure", "ContainersNotReady|ImagePullBackOff")
    tasks.api.await_gone(PATHS[task_type].format(tasks.namespace, run))
