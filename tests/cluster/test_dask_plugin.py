"""Tasks of the Dask plugin, run by the real operator of dask-kubernetes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.entries import LoadedKubernetesPlugin, load
from propfan.pluginmachinery.phases import LinkType, Phase
from propfan.pluginmachinery.testing import setup_context, task_template
from propfan.plugins.dask import entry
from propfan.plugins.dask.build import DASK_JOB
from tests.cluster.control_plane import ControlPlane
from tests.cluster.plugin_runs import K8S, PluginRun
from tests.peers.sdk_templates.recorded import Recorded, recorded

DASHBOARD = {
    "displayName": "Dask",
    "templateUris": ["https://d/{{.daskSchedulerName}}/status"],
    "linkType": "dashboard",
}


def dask_run(dask: ControlPlane, namespace: str, template: tasks_pb2.TaskTemplate, name: str = "r1-a0-0") -> PluginRun:
    loaded = load(entry, setup_context(k8s=K8S, sections={"dask": {"logs": {"templates": [DASHBOARD]}}}))
    assert isinstance(loaded, LoadedKubernetesPlugin)
    return PluginRun(dask, namespace, template, loaded.plugin, DASK_JOB, name)


def small() -> tasks_pb2.TaskTemplate:
    return task_template("dask", image="dask:1", args=["true"], custom={"workers": {"numberOfWorkers": 1}})


@pytest.mark.parametrize("task", recorded("dask"), ids=lambda task: task.name)
def test_task_of_an_sdk_succeeds(dask: ControlPlane, namespace: str, task: Recorded) -> None:
    run = dask_run(dask, namespace, task.message)
    run.create(outcome="succeeded", container="job-runner", run_for="15s")
    run.until(Phase.SUCCESS)
    assert Phase.RUNNING in run.phases


def test_failed_runner_fails_the_task(dask: ControlPlane, namespace: str) -> None:
    run = dask_run(dask, namespace, small())
    run.create(outcome="failed", container="job-runner", run_for="5s", exit_code="3")
    verdict = run.until(Phase.RETRYABLE_FAILURE)
    assert verdict.error is not None


def test_dashboard_is_told_once_its_scheduler_is_ready(dask: ControlPlane, namespace: str) -> None:
    run = dask_run(dask, namespace, small())
    run.create(outcome="running")
    run.until(Phase.RUNNING)
    dask.api.await_object(run.path, lambda item: "Dask dashboard is ready" in run.look(item).reason, timeout_s=120)
    verdict = run.verdicts[-1]
    assert verdict.info is not None
    [dashboard] = [log for log in verdict.info.logs if log.link_type is LinkType.DASHBOARD]
    assert dashboard.uri.startswith("https://d/r1-a0-0-scheduler-")
    assert dashboard.uri.removeprefix("https://d/").removesuffix("/status") in run.pods()


def test_runner_that_can_not_be_pulled_fails_the_task_though_never_the_job(dask: ControlPlane, namespace: str) -> None:
    run = dask_run(dask, namespace, small())
    run.create(outcome="image-pull-error")
    verdict = run.until(Phase.RETRYABLE_FAILURE, after=timedelta(hours=1))
    assert verdict.error is not None
    assert "ImagePull" in verdict.error.code


def test_longest_name_is_taken(dask: ControlPlane, namespace: str) -> None:
    run = dask_run(dask, namespace, small(), name="r" * 53)
    run.create(outcome="running")
    run.until(Phase.RUNNING)
