"""The phase, the links and the clean-up of clustered tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec
from flyteidl2.plugins.clustered_pb2 import ClusteredTaskSpec, ClusterFailurePolicy

from propfan.pluginmachinery import exit_codes, phases
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.entries import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.operators.conditions import current
from propfan.pluginmachinery.operators.custom import CustomError, message_of
from propfan.pluginmachinery.operators.job_links import PodLinks
from propfan.pluginmachinery.operators.job_objects import SpecDecoder, identity, pod_spec_builder
from propfan.pluginmachinery.operators.job_pods import list_pods, log_contexts, phase_of, without_pending
from propfan.pluginmachinery.phases import ErrorKind, LogContext, Phase, PhaseInfo, TaskInfo, TaskLog
from propfan.pluginmachinery.podphase import ObservedPod, PodPhases
from propfan.plugins.clustered import build, job_sets
from propfan.plugins.clustered.job_sets import JobSet, JobSetStatus

HOST_MAINTENANCE: Final = "HostMaintenance"
"""Code of the failure of a task that its node was taken from."""

_MAINTENANCE_MESSAGE: Final = "pod evicted due to host maintenance; retrying without charging max_restarts"

_LIVING: Final = ("Running", "Pending")
_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)


class ClusteredConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``plugins.clustered-task``.

    Attributes:
        exact_pod_names: Log links name the pod that a rank runs in now. Otherwise they name what stays the same when
            it is started again, its name without the random end, for stores that find logs by the beginning of a name.
    """

    exact_pod_names: bool = True


class ClusteredPlugin:
    """Runs ``clustered-task`` tasks. The pod of rank 0 stands for the task."""

    def __init__(self, setup: SetupContext) -> None:
        self._config = setup.section("clustered-task", ClusteredConfig)
        self._plans = build.plans(pod_spec_builder(setup))
        self._phases = PodPhases(setup.k8s, setup.logs)
        self._links = PodLinks(self._phases.plan)
        self._specs = SpecDecoder(JobSet, _spec_of)

    def get_properties(self) -> Properties:
        return Properties(generated_name_max_length=build.MAX_NAME_LENGTH)

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return identity(build.JOB_SET)

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        return await self._plans.build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``DecodeError`` for an object that is no JobSet."""
        spec, status = self._specs.decode(resource), job_sets.status_of(resource)
        metadata = resource.metadata
        pods = [pod for pod in await list_pods(ctx) if pod.metadata.name.startswith(f"{metadata.name}-")]
        ranks = _pods_by_rank(pods, metadata)
        info = TaskInfo(
            occurred_at=ctx.now,
            logs=self._logs(ctx, spec, metadata, ranks),
            log_context=self._log_context(pods, metadata),
            custom_info=status.as_json(),
        )
        return self._verdict(ctx, spec, status, _Rank0(self._phases, ranks.get("0"), metadata, ctx.now, info))

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Raises ``DecodeError``."""
        return any(job_sets.status_of(resource).ends)

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the JobSet ended; else when it was created. Raises ``DecodeError``."""
        times = (condition.last_transition_time for condition in job_sets.status_of(resource).ends)
        return next(filter(None, times), resource.metadata.creation_timestamp)

    def _verdict(self, ctx: PluginContext, spec: _Spec, status: JobSetStatus, rank_0: _Rank0) -> PhaseInfo:
        now, info, condition = ctx.now, rank_0.info, current(status.conditions)
        if condition is None and not _has_begun(ctx, status):
            return phases.initializing(now, 0, "pods scheduling / DNS resolving", info)
        if condition is not None and condition.type == job_sets.COMPLETED:
            return phases.success(now, info)
        if condition is not None and condition.type == job_sets.FAILED:
            if _wanted(ctx).restart_on_host_maintenance and rank_0.was_interrupted:
                return phases.system_retryable_failure(HOST_MAINTENANCE, _MAINTENANCE_MESSAGE, now, info, cleanup=True)
            return phases.retryable_failure(condition.reason, condition.message, now, info)
        is_restarting = condition is not None and condition.type == job_sets.RESTARTING
        early = rank_0.verdict(counts_failures=not is_restarting and _has_no_restarts_left(ctx, spec, status))
        if early.phase.is_failure:
            return early
        if condition is not None and condition.type == job_sets.SUSPENDED:
            verdict = phases.queued(now, 0, "JobSet is suspended", info)
        else:
            how = "restart in progress (attempt" if is_restarting else "running (restart attempt"
            reason = f"{how} {status.restarts})"
            verdict = PhaseInfo(Phase.RUNNING, reason=reason, info=info, recheck_at=early.recheck_at)
        return phases.bump_version_on_new_reason(verdict, ctx.plugin_state)

    def _logs(
        self, ctx: PluginContext, spec: _Spec, metadata: ObjectMeta, ranks: Mapping[str, ObservedPod]
    ) -> tuple[TaskLog, ...]:
        pods = spec.pods
        if ranks and self._config.exact_pod_names:
            present = (ranks.get(str(rank)) for rank in range(len(pods)))
            both = zip(pods, present, strict=True)
            pods = tuple((name if pod is None else pod.metadata.name, log) for (name, log), pod in both)
        return self._links.render(ctx, metadata, _primary(metadata), pods)

    def _log_context(self, pods: Sequence[ObservedPod], metadata: ObjectMeta) -> LogContext | None:
        """The pods that have started; ``None`` when there are none."""
        started = without_pending(pods)
        if not started:
            return None
        names = [pod.metadata.name for pod in started]
        first = next((name for name in reversed(names) if name.startswith(f"{_pod_prefix(metadata)}0")), names[0])
        contexts = log_contexts(self._phases, started)
        if primary := _primary(metadata):
            contexts = tuple(msgspec.structs.replace(pod, primary_container_name=primary) for pod in contexts)
        return LogContext(contexts, first)


class _Spec(msgspec.Struct, frozen=True):
    """What of a JobSet does not change while it runs.

    Attributes:
        pods: One for each rank, by the part of its name that is known beforehand, and the names of their logs.
        max_restarts: ``None`` where the JobSet has no policy.
    """

    pods: tuple[tuple[str, str], ...]
    max_restarts: int | None


def _spec_of(job_set: JobSet, metadata: ObjectMeta) -> _Spec:
    policy = job_set.spec.failure_policy
    pods = tuple((f"{_pod_prefix(metadata)}{rank}", f"rank-{rank}") for rank in range(job_set.ranks))
    return _Spec(pods, None if policy is None else policy.max_restarts)


class _Rank0(msgspec.Struct, frozen=True):
    """The pod that stands for the task, as far as there is one, and what a verdict on it carries."""

    phases: PodPhases
    pod: ObservedPod | None
    job_set: ObjectMeta
    now: datetime
    info: TaskInfo

    def verdict(self, *, counts_failures: bool) -> PhaseInfo:
        """Its verdict when it waits, or has failed and that counts; else undefined."""
        if self.pod is None or (phase_of(self.pod) == "Failed" and not counts_failures):
            return phases.UNDEFINED
        return exit_codes.charge(self.phases.judge(self.pod, self.now, _primary(self.job_set), self.info), self.pod)

    @property
    def was_interrupted(self) -> bool:
        verdict = self.verdict(counts_failures=True)
        error = verdict.error
        return verdict.phase is Phase.RETRYABLE_FAILURE and error is not None and error.kind is ErrorKind.SYSTEM


def _pods_by_rank(pods: Iterable[ObservedPod], job_set: ObjectMeta) -> dict[str, ObservedPod]:
    """The pod of each rank; of several, since some were replaced, one that lives, and then the newest."""
    prefix = _pod_prefix(job_set)
    found: dict[str, ObservedPod] = {}
    for pod in sorted(pods, key=_liveliness):
        name = pod.metadata.name
        if name.startswith(prefix) and pod.metadata.namespace == job_set.namespace:
            found[name.removeprefix(prefix).partition("-")[0]] = pod
    return found


def _liveliness(pod: ObservedPod) -> tuple[bool, datetime, str]:
    return phase_of(pod) in _LIVING, pod.metadata.creation_timestamp or _NEVER, pod.metadata.name


def _pod_prefix(job_set: ObjectMeta) -> str:
    """What the names of the workers' pods begin with; rank, dash and random letters follow."""
    return f"{job_set.name}-{build.WORKERS}-0-"


def _primary(job_set: ObjectMeta) -> str:
    return job_set.annotations.get(build.PRIMARY_CONTAINER, "")


def _has_begun(ctx: PluginContext, status: JobSetStatus) -> bool:
    if status.restarts > 0 or ctx.plugin_state.phase >= Phase.RUNNING:
        return True
    workers = status.workers
    return workers is not None and workers.has_begun


def _has_no_restarts_left(ctx: PluginContext, spec: _Spec, status: JobSetStatus) -> bool:
    """Whether workers have failed that the controller will not start again."""
    workers = status.workers
    if workers is None or workers.failed <= 0:
        return False
    return status.restarts >= (_wanted(ctx).max_restarts if spec.max_restarts is None else spec.max_restarts)


def _wanted(ctx: TaskContext) -> ClusterFailurePolicy:
    """What the task wants to happen after failures; nothing, if its message can not be read, with which none is built."""
    try:
        return message_of(ctx.template, ClusteredTaskSpec).failure_policy
    except CustomError:
        return ClusterFailurePolicy()


entry = KubernetesPluginEntry(
    id=build.TASK_TYPE, task_types=(build.TASK_TYPE,), watched=build.JOB_SET, load=ClusteredPlugin
)
