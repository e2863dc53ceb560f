"""What the three Kubeflow plugins share: links, phase and clean-up of a job of any framework."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, Final

import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.entries import SetupContext
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import Kind, ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.operators.conditions import Condition
from propfan.pluginmachinery.operators.job_links import PodLinks
from propfan.pluginmachinery.operators.job_objects import SpecDecoder, identity, pod_spec_builder
from propfan.pluginmachinery.operators.job_pods import list_pods, log_contexts, phase_of, without_pending
from propfan.pluginmachinery.phases import LogContext, PhaseInfo, TaskInfo
from propfan.pluginmachinery.podphase import ObservedPod, PodPhases
from propfan.pluginmachinery.podspec.build import PodTask
from propfan.pluginmachinery.podspec.plan import Plans
from propfan.plugins.kubeflow import jobs
from propfan.plugins.kubeflow.jobs import Job, JobStatus
from propfan.plugins.kubeflow.replicas import ReplicaSpecs

DOWNSTREAM_ERROR: Final = "DownstreamSystemError"

_MOMENT: Final = timedelta.resolution


class KubeflowConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``plugins.kf-operator``.

    Attributes:
        timeout: How long the operator may leave a new job alone before that counts as its failure.
    """

    timeout: Duration = Duration.parse("1m")


class KubeflowPlugin(ABC):
    """Runs tasks as jobs of one framework.

    Attributes:
        framework: Its name: of the task type, and of the container that the operator looks for.
        primary_pods: What the name of the pod that stands for the task holds, beside the job's; the first found counts.
    """

    framework: ClassVar[str]
    kind: ClassVar[Kind]
    primary_pods: ClassVar[Sequence[str]]

    def __init__(self, setup: SetupContext) -> None:
        config = setup.section("kf-operator", KubeflowConfig)
        self._timeout = timedelta(microseconds=config.timeout.nanoseconds / 1000)
        self._builder = pod_spec_builder(setup)
        self._replicas = ReplicaSpecs(self._builder, self.framework)
        self._plans = Plans(self._builder, self.render, uses_labels=True)
        self._phases = PodPhases(setup.k8s, setup.logs)
        self._links = PodLinks(self._phases.plan)
        self._logged_pods = SpecDecoder(Job, self._whole_names)

    @abstractmethod
    def render(self, task: PodTask) -> RenderedObject:
        """The job of a task.

        Raises:
            BadTaskSpecificationError: there can be none.
            PermanentError: a number of replicas is out of range; without a code.
        """

    @abstractmethod
    def logged_pods(self, job: Job) -> Iterator[tuple[str, str]]:
        """The pods that have links, and the names of their logs. Pods are called by what follows the job's name."""

    def seen_pods(self, present: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Those whose names are known only once the cluster has them.

        Args:
            present: The pods that it has now.
        """
        return iter(())

    def get_properties(self) -> Properties:
        return Properties()

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return identity(self.kind)

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        return await self._plans.build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``PermanentError`` for a job that its operator leaves alone or in no state, ``DecodeError`` for none."""
        status = jobs.status_of(resource)
        recheck_at = self._forsaken_at(status, resource, ctx.now)
        condition = jobs.current(status)
        name, prefix = resource.metadata.name, f"{resource.metadata.name}-"
        pods = [pod for pod in await list_pods(ctx) if pod.metadata.name.startswith(prefix)]
        logged = self._logged_pods.decode(resource)
        if pods:
            seen = self.seen_pods(pod.metadata.name.removeprefix(prefix) for pod in pods)
            logged = (*((prefix + pod, log) for pod, log in seen), *logged)
        info = TaskInfo(
            occurred_at=ctx.now,
            logs=self._links.render(ctx, resource.metadata, self.framework, logged),
            log_context=self._log_context(name, pods),
            custom_info=status.as_json(),
        )
        for early in self._early_verdicts(ctx, name, pods, condition, info):
            if early.phase.is_failure:
                return early
            if early.recheck_at is not None:
                recheck_at = min(early.recheck_at, recheck_at or early.recheck_at)
        verdict = phases.bump_version_on_new_reason(_verdict(condition, ctx.now, info), ctx.plugin_state)
        return verdict if recheck_at is None or verdict.phase.is_terminal else verdict.rechecked_at(recheck_at)

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Raises ``DecodeError``."""
        return jobs.is_over(jobs.status_of(resource))

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the job ended; else when it began. Raises ``DecodeError``."""
        return jobs.ended_at(jobs.status_of(resource)) or resource.metadata.creation_timestamp

    def _whole_names(self, job: Job, metadata: ObjectMeta) -> tuple[tuple[str, str], ...]:
        return tuple((f"{metadata.name}-{pod}", log) for pod, log in self.logged_pods(job))

    def _forsaken_at(self, status: JobStatus, resource: ObservedObject, now: datetime) -> datetime | None:
        """When a job that its operator has not begun with counts as forsaken; ``None`` if it can not any more.

        A suspended job has not begun either, and waits as long as it takes.

        Raises:
            PermanentError: it does already; without a code.
        """
        created = resource.metadata.creation_timestamp
        if status.start_time is not None or created is None or jobs.is_suspended(status):
            return None
        if now - created > self._timeout:
            problem = f"kubeflow operator hasn't updated the {self.framework} custom resource since creation time"
            raise PermanentError("", f"{problem} {jobs.go_time(created)}")
        return created + self._timeout + _MOMENT

    def _log_context(self, name: str, pods: Sequence[ObservedPod]) -> LogContext | None:
        """The pods that have started; ``None`` when there are none."""
        started = without_pending(pods)
        if not started:
            return None
        names = [pod.metadata.name for pod in started]
        found = (n for part in self.primary_pods for n in reversed(names) if part in n[len(name) :])
        return LogContext(log_contexts(self._phases, started), next(found, ""))

    def _early_verdicts(
        self,
        ctx: PluginContext,
        name: str,
        pods: Sequence[ObservedPod],
        condition: Condition | None,
        info: TaskInfo,
    ) -> Iterator[PhaseInfo]:
        """Verdicts on pods that can not start, of which the operator does not know; a failed one is its business."""
        if condition is None or condition.type not in jobs.ENDS:
            for pod in pods:
                if phase_of(pod) == "Pending":
                    yield self._phases.judge(pod, ctx.now, self.framework, info)


def _verdict(condition: Condition | None, now: datetime, info: TaskInfo) -> PhaseInfo:
    if condition is None or condition.type == "Created":
        return phases.queued(now, 0, "JobCreated", info)
    match condition.type:
        case jobs.SUSPENDED:
            return phases.queued(now, 0, "JobSuspended", info)
        case "Running" | "Restarting":
            return phases.running(now, 0, info)
        case jobs.SUCCEEDED:
            return phases.success(now, info)
        case jobs.FAILED:
            message = f"Job failed:\n\t{condition.reason} - {condition.message}"
            return phases.retryable_failure(DOWNSTREAM_ERROR, message, now, info)
    return phases.UNDEFINED
