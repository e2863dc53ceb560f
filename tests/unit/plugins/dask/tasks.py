"""Dask tasks, and a plugin that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators import job_objects
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context, task_template
from propfan.plugins.dask import DaskConfig, DaskPlugin

JOB = "r1-a0-0"


def dask_task(custom: Mapping[str, Any] | None = None, **members: Any) -> tasks_pb2.TaskTemplate:
    own = {"workers": {"numberOfWorkers": 3}} if custom is None else custom
    return task_template("dask", custom=own, **{"image": "dask:1", "args": ["a0", "--inputs", "{{.input}}"], **members})


def dask_plugin(*, k8s: K8sConfig | None = None, **section: Any) -> DaskPlugin:
    setup = setup_context(k8s=k8s)
    return DaskPlugin(job_objects.pod_spec_builder(setup), decode_config(DaskConfig, section, "plugins.dask"))


def document(rendered: RenderedObject) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(rendered.to_json())
    return decoded


async def spec_of(plugin: DaskPlugin, template: tasks_pb2.TaskTemplate, **context: Any) -> dict[str, Any]:
    spec: dict[str, Any] = document(await plugin.build_resource(FakeTaskContext(template, **context)))["spec"]
    return spec


def containers(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The first container of each part, by its name."""
    cluster = spec["cluster"]["spec"]
    parts = (spec["job"]["spec"], cluster["scheduler"]["spec"], cluster["worker"]["spec"])
    return {part["containers"][0]["name"]: part["containers"][0] for part in parts}


def pod(name: str, container: str, *, ready: bool = True, **status: Any) -> dict[str, Any]:
    states = [{"name": container, "ready": ready, "state": {"running": {}}}]
    return {
        "metadata": {"name": name, "namespace": "project-domain"},
        "spec": {"containers": [{"name": container}]},
        "status": {"phase": "Running", "containerStatuses": states, **status},
    }


def job_status(state: str) -> dict[str, Any]:
    return {"jobStatus": state, "jobRunnerPodName": f"{JOB}-runner"}
