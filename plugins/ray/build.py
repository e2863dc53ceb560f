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

_CLUSTER_SELECTOR: Final = "ray.io/cluster"
_SUBMITTER_POD: Final = "K8sJobMode"
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
    """Builds RayJobs, and the clusters that they run on, under one configuration.

    Raises (all methods that take a task):
        BadTaskSpecificationError: the task can never run.
        PermanentError: its runtime environment can not be read; without a code.
        TransientError: its inputs can not be read now.
    """

    def __init__(self, pods: PodSpecBuilder, config: RayConfig) -> None:
        self._pods = pods
        self._config = config

    def plans(self) -> Plans:
        """The conversion to a job with a cluster of its own that remembers what it did."""
        return Plans(self._pods, self.build, uses_labels=True)

    def build(self, task: PodTask) -> RenderedObject:
        """The job with a cluster of its own."""
        job = custom.decode_custom(task.template, ray_pb2.RayJob)
        nodes = Nodes(self._pods, self._config, task)
        cluster = self._cluster(job, nodes, task)
        spec = {"rayClusterSpec": cluster, **self._submission(nodes, cluster, task, self._mode())}
        if job.shutdown_after_job_finishes:
            shuts_down, ttl_s = True, job.ttl_seconds_after_finished
        else:
            shuts_down, ttl_s = self._config.shutdown_after_job_finishes, self._config.ttl_seconds_after_finished
        if shuts_down:
            spec["shutdownAfterJobFinishes"] = True
            if ttl_s:  # without the other KubeRay refuses the job
                spec["ttlSecondsAfterFinished"] = ttl_s
        if environment := _runtime_env(job):
            spec["runtimeEnvYAML"] = environment
        return job_objects.render(RAY_JOB, job_objects.object_meta(nodes.base.metadata), spec)

    def cluster(self, task: PodTask) -> tuple[dict[str, Any], Mapping[str, Any]]:
        """Spec and metadata of a cluster as the task wants it."""
        job = custom.decode_custom(task.template, ray_pb2.RayJob)
        nodes = Nodes(self._pods, self._config, task)
        return self._cluster(job, nodes, task), nodes.base.metadata

    def build_on(self, task: PodTask, name: str) -> RenderedObject:
        """The job on a cluster that is there, whose pods know nothing of this execution: its runtime environment does."""
        job = custom.decode_custom(task.template, ray_pb2.RayJob)
        nodes = Nodes(self._pods, self._config, task)
        cluster = self._cluster(job, nodes, task)
        mode = self._mode()  # a sidecar of the head can only submit the job that the head was made for
        spec = {
            "clusterSelector": {_CLUSTER_SELECTOR: name},
            **self._submission(nodes, cluster, task, _SUBMITTER_POD if mode == "SidecarMode" else mode),
        }
        variables = {v["name"]: v.get("value", "") for v in self._pods.environment_of(task) if "valueFrom" not in v}
        spec["runtimeEnvYAML"] = runtime_env.with_variables(_runtime_env(job), variables)
        return job_objects.render(RAY_JOB, job_objects.object_meta(nodes.base.metadata), spec)

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

    def _mode(self) -> str:
        mode = self._config.submission_mode or _SUBMITTER_POD
        if mode not in SUBMISSION_MODES:
            raise BadTaskSpecificationError(
                f'invalid ray submission mode "{mode}": must be K8sJobMode, HTTPMode or SidecarMode'
            )
        return mode

    def _submission(self, nodes: Nodes, cluster: Mapping[str, Any], task: PodTask, mode: str) -> dict[str, Any]:
        """What to run, and who hands it to the cluster."""
        base, k8s = nodes.base, self._pods.k8s
        primary = next(c for c in base.spec["containers"] if c["name"] == base.primary_container_name)
        spec: dict[str, Any] = {"submissionMode": mode}
        if entrypoint := " ".join(primary.get("args") or ()):
            spec["entrypoint"] = entrypoint
        if mode != _SUBMITTER_POD:
            return spec
        container: dict[str, Any] = {"name": "ray-job-submitter", "resources": _SUBMITTER_RESOURCES}
        if image := cluster["headGroupSpec"]["template"]["spec"]["containers"][0].get("image"):
            container["image"] = image
        pod: dict[str, Any] = {"containers": [container], "restartPolicy": "Never", "enableServiceLinks": False}
        if k8s.default_tolerations:
            pod["tolerations"] = k8s.default_tolerations
        if k8s.default_affinity is not None:
            pod["affinity"] = k8s.default_affinity
        spec["submitterPodTemplate"] = {"metadata": job_objects.pod_metadata(k8s, task.metadata), "spec": pod}
        return spec


def _runtime_env(job: ray_pb2.RayJob) -> str:
    """As YAML; empty when there is none."""
    return job.runtime_env_yaml or (runtime_env.yaml_of(job.runtime_env) if job.runtime_env else "")


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
