"""The phase of a task from its DaskJob and the pods of its cluster."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

import msgspec

from propfan._speedups.pods import EnvVar
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.exit_codes import charge
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.loglinks import LogLinks
from propfan.pluginmachinery.operators import job_links, job_objects, job_pods
from propfan.pluginmachinery.phases import ContainerContext, LogContext, Phase, PhaseInfo, PodLogContext, TaskInfo
from propfan.pluginmachinery.podphase import PodPhases, is_ready, primary_container_name
from propfan.pluginmachinery.podspec.debugger import asks_for_debugger
from propfan.plugins.dask.build import JOB_RUNNER, SCHEDULER
from propfan.plugins.dask.config import DaskConfig

FAILED: Final = "DownstreamSystemError"

_OVER: Final = ("Successful", "Failed")

Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


class _Part(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A piece of a DaskJob; ``null`` is unset."""


class Status(_Part, frozen=True):
    """``DaskJob.status``, as the operator of dask-kubernetes writes it."""

    job_status: str | None = None
    job_runner_pod_name: str | None = None
    start_time: Time = None
    end_time: Time = None


class _Container(_Part, frozen=True):
    env: tuple[EnvVar, ...] | None = None


class _PodSpec(_Part, frozen=True):
    containers: tuple[_Container, ...] | None = None


class _Scheduler(_Part, frozen=True):
    spec: _PodSpec | None = None


class _ClusterSpec(_Part, frozen=True):
    scheduler: _Scheduler | None = None


class _Cluster(_Part, frozen=True):
    spec: _ClusterSpec | None = None


class _Spec(_Part, frozen=True):
    cluster: _Cluster | None = None


class DaskJob(_Part, frozen=True):
    status: Status | None = None


class DaskJobWithSpec(DaskJob, frozen=True):
    """Also with the environment of the scheduler's containers."""

    spec: _Spec | None = None

    def scheduler_environment(self) -> tuple[EnvVar, ...]:
        """Variables of the scheduler's first container."""
        cluster = None if self.spec is None else self.spec.cluster
        spec = None if cluster is None else cluster.spec
        pod = None if spec is None or spec.scheduler is None else spec.scheduler.spec
        containers = () if pod is None else pod.containers or ()
        return containers[0].env or () if containers else ()


_NO_STATUS: Final = Status()
_STATUS: Final = job_objects.StatusDecoder(Status)
_FULL: Final = msgspec.json.Decoder(DaskJobWithSpec)


class DaskPhases:
    """The rules for one configuration."""

    def __init__(self, k8s: K8sConfig, config: DaskConfig) -> None:
        self._pods = PodPhases(k8s, config.logs)
        self._links = LogLinks(config.logs)

    async def phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """The verdict on a task's DaskJob.

        Raises:
            DecodeError: the object is no DaskJob, or what the operator made for it are no pods.
        """
        needs_spec = self._links.needs_environment
        job = job_objects.decode(_FULL, resource) if needs_spec else DaskJob(_STATUS.decode(resource))
        status = job.status or _NO_STATUS
        runner = status.job_runner_pod_name or ""
        name = resource.metadata.name
        pods = await job_pods.list_pods(ctx)
        schedulers = [p for p in pods if p.metadata.name.startswith(name) and SCHEDULER in p.metadata.name]
        known = next((p.metadata.name for p in schedulers if primary_container_name(p) == SCHEDULER), "")
        debugged = isinstance(job, DaskJobWithSpec) and asks_for_debugger(
            {"name": variable.name, "value": variable.value} for variable in job.scheduler_environment()
        )
        variables = (("daskSchedulerName", known),) if known else ()
        given = job_links.log_input(ctx, runner, variables=variables, enable_vscode=debugged)
        logs = self._links.plan_for(ctx, uses_config=False).render(given)
        containers = (ContainerContext(JOB_RUNNER),)
        context = LogContext((PodLogContext(ctx.metadata.namespace, runner, JOB_RUNNER, containers),), runner)
        info = TaskInfo(occurred_at=ctx.now, logs=logs, log_context=context)
        running = next((pod for pod in pods if pod.metadata.name == runner), None)
        if running is not None and status.job_status != "Successful":
            verdict = charge(self._pods.judge(running, ctx.now, JOB_RUNNER, info), running)
            if verdict.phase.is_failure:
                return verdict
        verdict = _of_state(status.job_status or "", ctx.now, info)
        if logs and len(schedulers) <= 1:
            ready = bool(schedulers) and is_ready(schedulers[0])
            flagged = msgspec.structs.replace(info, logs=job_links.flagged(logs, ready=ready))
            verdict = msgspec.structs.replace(verdict, info=flagged)
            is_up = ready and verdict.phase is Phase.RUNNING
            verdict = job_links.announce(
                verdict,
                logs,
                dashboard="Dask dashboard is ready" if is_up else "Dask dashboard is not ready",
                editor=job_links.EDITOR_READY if is_up else job_links.EDITOR_NOT_READY,
            )
        return phases.bump_version_on_new_reason(verdict, ctx.plugin_state)


def _of_state(state: str, now: datetime, info: TaskInfo) -> PhaseInfo:
    match state:
        case "":
            return phases.initializing(now, 0, "unknown", info)
        case "JobCreated":
            return phases.initializing(now, 0, "job created", info)
        case "ClusterCreated":
            return phases.initializing(now, 0, "cluster created", info)
        case "Failed":
            return phases.retryable_failure(FAILED, "Dask Job failed", now, info)
        case "Successful":
            return phases.success(now, info)
        case _:
            return phases.running(now, 0, info)


def is_terminal(resource: ObservedObject) -> bool:
    """Raises ``DecodeError`` for an object that is no DaskJob."""
    return _status(resource).job_status in _OVER


def completion_time(resource: ObservedObject) -> datetime | None:
    """When the job ended, else began, else was created. Raises ``DecodeError``."""
    status = _status(resource)
    return status.end_time or status.start_time or resource.metadata.creation_timestamp


def _status(resource: ObservedObject) -> Status:
    return _STATUS.decode(resource) or _NO_STATUS
