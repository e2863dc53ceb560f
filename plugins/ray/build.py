"""From a task to its RayJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from flyteidl2.plugins import ray_pb2

from propfan._speedups import structs
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.kubernetes_plugin import Kind, RenderedObject
from propfan.pluginmachinery.operators import custom, job_objects
from propfan.pluginmachinery.podspec import environment, resources
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, PodTask
from propfan.pluginmachinery.podspec.plan import Plans
from propfan.plugins.ray import runtime_env
from propfan.plugins.ray.config import SUBMISSION_MODES, NodeDefaults, RayConfig
from propfan.plugins.ray.nodes import Nodes

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import Resources

RAY_JOB: Final = Kind("ray.io", "v1", "RayJob", "rayjobs")

_SUBMITTER_RESOURCES: Final = {
    "requests": {"cpu": "500m", "memory": "200Mi"},
    "limits": {"cpu": "1", "memory": "1Gi"},
}
_UPSCALING_MODES: Final = {
    ray_pb2.AutoscalerOptions.UPSCALING_MODE_DEFAULT: "Default",
    ray_pb2.AutoscalerOptions.UPSCALING_MODE_AGGRESSIVE: "Aggressive",
    ray_pb2.AutoscalerOptions.UPSCALING_MODE_CONSERVATIVE: "Conservative",
}


class RayJobs:
    """Builds RayJobs under one configuration."""

    def __init__(self, pods: PodSpecBuilder, config: RayConfig) -> None:
        self._pods = pods
        self._config = config

    def plans(self) -> Plans:
        """The conversion that remembers what it did."""
        return Plans(self._pods, self.build, uses_labels=True)

    def build(self, task: PodTask) -> RenderedObject:
        """The job with a cluster of its own.

        Raises:
            BadTaskSpecificationError: the task can never run.
            PermanentError: its runtime environment can not be read; without a code.
            TransientError: its inputs can not be read now.
        """
        job = custom.decode_custom(task.template, ray_pb2.RayJob)
        nodes = Nodes(self._pods, self._config, task)
        cluster = self._cluster(job, nodes, task)
        spec: dict[str, Any] = {"rayClusterSpec": cluster}
        base = nodes.base
        primary = next(c for c in base.spec["containers"] if c["name"] == base.primary_container_name)
        if entrypoint := " ".join(primary.get("args") or ()):
            spec["entrypoint"] = entrypoint
        self._submit(spec, cluster["headGroupSpec"]["template"]["spec"]["containers"][0].get("image", ""), task)
        if job.shutdown_after_job_finishes:
            shuts_down, ttl_s = True, job.ttl_seconds_after_finished
        else:
            shuts_down, ttl_s = self._config.shutdown_after_job_finishes, self._config.ttl_seconds_after_finished
        if shuts_down:
            spec["shutdownAfterJobFinishes"] = True
            if ttl_s:  # without the other KubeRay refuses the job
                spec["ttlSecondsAfterFinished"] = ttl_s
        if environment := job.runtime_env_yaml or (runtime_env.yaml_of(job.runtime_env) if job.runtime_env else ""):
            spec["runtimeEnvYAML"] = environment
        return job_objects.render(RAY_JOB, job_objects.object_meta(base.metadata), spec)

    def _cluster(self, job: ray_pb2.RayJob, nodes: Nodes, task: PodTask) -> dict[str, Any]:
        if not job.HasField("ray_cluster"):
            raise BadTaskSpecificationError("invalid TaskSpecification: custom.rayCluster is missing")
        wanted = job.ray_cluster
        written = _member(structs.to_value(task.template.custom.SerializeToString()), "rayCluster", "ray_cluster")
        config, defaults = self._config, self._config.defaults
        parameters = _start_parameters(
            _member(written, "headGroupSpec", "head_group_spec"), wanted.head_group_spec, defaults.head_node
        )
        parameters.setdefault("include-dashboard", "true" if config.include_dashboard else "false")
        parameters.setdefault("dashboard-host", config.dashboard_host)
        self._complete(parameters, defaults.head_node)
        cluster: dict[str, Any] = {
            "headGroupSpec": {
                "serviceType": config.service_type,
                "enableIngress": True,
                "rayStartParams": parameters,
                "template": nodes.head(wanted.head_group_spec),
            },
            "enableInTreeAutoscaling": wanted.enable_autoscaling,
        }
        groups = []
        for group, own in zip(
            wanted.worker_group_spec, _member(written, "workerGroupSpec", "worker_group_spec") or (), strict=True
        ):
            parameters = _start_parameters(own, group, defaults.worker_node)
            self._complete(parameters, defaults.worker_node)
            groups.append(
                {
                    "groupName": group.group_name,
                    "replicas": group.replicas,
                    "minReplicas": min(group.min_replicas, group.replicas),
                    "maxReplicas": max(group.max_replicas, group.replicas),
                    "rayStartParams": parameters,
                    "template": nodes.worker(group),
                }
            )
        if groups:
            cluster["workerGroupSpecs"] = groups
        if wanted.HasField("autoscaler_options"):
            cluster["autoscalerOptions"] = _autoscaler(wanted.autoscaler_options)
        return cluster

    def _complete(self, parameters: dict[str, str], defaults: NodeDefaults) -> None:
        parameters.setdefault("node-ip-address", defaults.ip_address)
        if not self._config.enable_usage_stats:
            parameters.setdefault("disable-usage-stats", "true")

    def _submit(self, spec: dict[str, Any], image: str, task: PodTask) -> None:
        """Who hands the job to the cluster, once its pods are known to be possible."""
        mode, k8s = self._config.submission_mode or SUBMISSION_MODES[0], self._pods.k8s
        if mode not in SUBMISSION_MODES:
            raise BadTaskSpecificationError(
                f'invalid ray submission mode "{mode}": must be K8sJobMode, HTTPMode or SidecarMode'
            )
        spec["submissionMode"] = mode
        if mode != "K8sJobMode":
            return
        container: dict[str, Any] = {"name": "ray-job-submitter", "resources": _SUBMITTER_RESOURCES}
        if image:
            container["image"] = image
        pod: dict[str, Any] = {"containers": [container], "restartPolicy": "Never", "enableServiceLinks": False}
        if k8s.default_tolerations:
            pod["tolerations"] = k8s.default_tolerations
        if k8s.default_affinity is not None:
            pod["affinity"] = k8s.default_affinity
        spec["submitterPodTemplate"] = {"metadata": job_objects.pod_metadata(k8s, task.metadata), "spec": pod}


def _member(written: Any, camel: str, snake: str) -> Any:
    """A member of a message as it was written, by either of its names."""
    return None if written is None else written.get(camel, written.get(snake))


def _start_parameters(
    written: Mapping[str, Any] | None, group: ray_pb2.HeadGroupSpec | ray_pb2.WorkerGroupSpec, defaults: NodeDefaults
) -> dict[str, str]:
    """The group's own if it names any, be it none at all; else the configured ones."""
    has_own = _member(written, "rayStartParams", "ray_start_params") is not None
    return dict(group.ray_start_params if has_own else defaults.start_parameters)


def _autoscaler(options: ray_pb2.AutoscalerOptions) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if options.idle_timeout_seconds > 0:
        written["idleTimeoutSeconds"] = options.idle_timeout_seconds
    if mode := _UPSCALING_MODES.get(options.upscaling_mode):
        written["upscalingMode"] = mode
    if options.image:
        written["image"] = options.image
    requirements = _requirements(options.resources)
    if requirements is not None:
        written["resources"] = requirements
    if options.env:
        written["env"] = [environment.variable(pair.key, pair.value) for pair in options.env]
    return written


def _requirements(asked: Resources) -> dict[str, Any] | None:
    """``None`` when a value is no quantity."""
    try:
        found = resources.of_template(asked)
    except PermanentError:
        return None
    both = (("requests", found.requests), ("limits", found.limits))
    return {kind: {name: resources.printed(v) for name, v in values.items()} for kind, values in both if values}
