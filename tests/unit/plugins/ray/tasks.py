"""Ray tasks, a plugin that runs them, and what KubeRay makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf import duration_pb2

from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.kubernetes_plugin import RenderedObject
from propfan.pluginmachinery.operators import job_objects
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context, task_template
from propfan.plugins.ray import RayConfig, RayPlugin

JOB = "r1-a0-0"
CLUSTER = f"{JOB}-x7k2p"


def ray_task(
    head: Mapping[str, Any] | None = None,
    *groups: Mapping[str, Any],
    custom: Mapping[str, Any] | None = None,
    **more: Any,
) -> tasks_pb2.TaskTemplate:
    """A Ray task with these groups; ``custom`` are further members of the message."""
    cluster = {"headGroupSpec": dict(head or {}), "workerGroupSpec": [dict(group) for group in groups]}
    members = {"rayCluster": cluster, **(custom or {})}
    return task_template("ray", custom=members, **{"image": "ray:1", "args": ["a0", "--inputs", "{{.input}}"], **more})


def shared(template: tasks_pb2.TaskTemplate, *, idle_ttl_s: int = 300, of_run: bool = False) -> tasks_pb2.TaskTemplate:
    """The task with the SDK's ``ReusePolicy``."""
    scope = tasks_pb2.ReusePolicy.Scope.RUN if of_run else tasks_pb2.ReusePolicy.Scope.GLOBAL
    policy = tasks_pb2.ReusePolicy(
        min_replicas=1, max_replicas=1, concurrency=1, idle_ttl=duration_pb2.Duration(seconds=idle_ttl_s), scope=scope
    )
    template.reuse_policy.CopyFrom(policy)
    return template


def ray_plugin(*, k8s: K8sConfig | None = None, **section: Any) -> RayPlugin:
    """The plugin with its section's keys as in YAML."""
    setup = setup_context(k8s=k8s)
    return RayPlugin(job_objects.pod_spec_builder(setup), decode_config(RayConfig, section, "plugins.ray"))


def document(rendered: RenderedObject) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(rendered.to_json())
    return decoded


async def spec_of(plugin: RayPlugin, template: tasks_pb2.TaskTemplate, **context: Any) -> dict[str, Any]:
    """Of the job with a cluster of its own."""
    built = await plugin.build_job_resource(FakeTaskContext(template, **context), "")
    spec: dict[str, Any] = document(built)["spec"]
    return spec


def primary(template: Mapping[str, Any]) -> dict[str, Any]:
    """The first container of a pod template."""
    container: dict[str, Any] = template["spec"]["containers"][0]
    return container


def pod(name: str, node_type: str = "", *, cluster: str = CLUSTER, ready: bool = True, **status: Any) -> dict[str, Any]:
    """As KubeRay makes it, running unless ``status`` says otherwise."""
    container = {"name": f"ray-{node_type or 'head'}", "ready": ready, "state": {"running": {}}}
    labels = {"ray.io/node-type": node_type, "ray.io/cluster": cluster} if node_type else {}
    return {
        "metadata": {"name": name, "namespace": "project-domain", "labels": labels},
        "spec": {"containers": [{"name": container["name"]}]},
        "status": {"phase": "Running", "containerStatuses": [container], **status},
    }


def job_status(state: str = "Running", **more: Any) -> dict[str, Any]:
    return {
        "jobDeploymentStatus": state,
        "jobStatus": "RUNNING",
        "jobId": "job-1",
        "rayClusterName": CLUSTER,
        "dashboardURL": "head:8265",
        **more,
    }
