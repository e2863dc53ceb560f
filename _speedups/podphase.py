"""What a pod's status means for its task: the rules, and the values that carry the verdict.

Pods are those of ``propfan._speedups.pods``. The result types are given by the caller (``Results``), since they
are declared further up. All functions are pure; times are aware.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from propfan._speedups import links
from propfan._speedups.pods import Condition, ContainerStatus, ObservedPod, Spec, State, Status, Terminated, Waiting

_UNDEFINED: Final = 0
_QUEUED: Final = 3
_INITIALIZING: Final = 4
_RUNNING: Final = 5
_SUCCESS: Final = 6
_RETRYABLE_FAILURE: Final = 7
_PERMANENT_FAILURE: Final = 8

_pod_values: Final = links.pod_values
_add_identity: Final = links.add_identity

_UNSET: Final = datetime(1, 1, 1, tzinfo=UTC)
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_SYSTEM_REASONS: Final = frozenset({"Shutdown", "Terminated", "NodeShutdown", "NodeAffinity"})
_STARTING: Final = frozenset({"ErrImagePull", "ContainerCreating", "PodInitializing"})
_KILLED_EXIT_CODES: Final = (137, 247)
"""128 + SIGKILL, and what some runtimes report for it."""


class Results(NamedTuple):
    """Constructors and members of the types that a verdict is made of, called by position."""

    phases: Sequence[Any]
    user: Any
    system: Any
    ide: Any
    phase_info: Callable[..., Any]
    execution_error: Callable[..., Any]
    task_info: Callable[..., Any]
    log_context: Callable[..., Any]
    pod_log_context: Callable[..., Any]
    container_context: Callable[..., Any]


class Limits(NamedTuple):
    """How long a pod may wait with a reason; the texts are the periods in messages."""

    create_container_error: timedelta
    create_container_error_text: str
    create_container_config_error: timedelta
    create_container_config_error_text: str
    image_pull_backoff: timedelta
    image_pull_backoff_text: str
    pending: timedelta | None


class Verdict:
    """A phase and why. ``since`` is set where nothing but that time is told about the task."""

    phase: int
    version: int
    reason: str
    code: str
    message: str
    is_system: bool
    cleanup: bool
    since: datetime | None
    recheck_at: datetime | None


def _waits(phase: int, version: int, reason: str) -> Verdict:
    verdict = Verdict.__new__(Verdict)
    verdict.phase = phase
    verdict.version = version
    verdict.reason = reason
    verdict.code = verdict.message = ""
    verdict.is_system = verdict.cleanup = False
    verdict.since = verdict.recheck_at = None
    return verdict


def _fails(phase: int, code: str, message: str, is_system: bool) -> Verdict:  # noqa: FBT001 - C signature
    verdict = _waits(phase, 0, "")
    verdict.code = code
    verdict.message = message
    verdict.is_system = is_system
    return verdict


def _fails_waiting(phase: int, code: str, message: str, is_system: bool) -> Verdict:  # noqa: FBT001 - C signature
    """A failure of a pod that waits and would go on doing so: its object has to be removed."""
    verdict = _fails(phase, code, message, is_system)
    verdict.cleanup = True
    return verdict


def _earlier(left: datetime | None, right: datetime | None) -> datetime | None:
    if left is None or right is None:
        return left if right is None else right
    return min(left, right)


def _end(start: datetime, period: timedelta) -> datetime | None:
    """``None`` when it lies beyond the calendar."""
    try:
        return start + period
    except OverflowError:
        return None


def primary_container_name(pod: ObservedPod) -> str:
    """The container that stands for the task: named by annotation, or like the pod, else the first."""
    metadata = pod.metadata
    annotations = metadata.annotations
    if annotations is not None:
        if annotations.default_container:
            return annotations.default_container
        if annotations.primary_container_name:
            return annotations.primary_container_name
    containers = None if pod.spec is None else pod.spec.containers
    if not containers:
        return ""
    for container in containers:
        if container.name == metadata.name:
            return container.name
    return containers[0].name


def is_ready(pod: ObservedPod) -> bool:
    """Whether the primary container is; without one, whether the pod is."""
    name = primary_container_name(pod)
    if pod.status is None:
        return False
    if not name:
        return any([c.type == "Ready" and c.status == "True" for c in pod.status.conditions or ()])  # noqa: C419
    for status in pod.status.container_statuses or ():
        if status.name == name:
            return status.ready
    return False


def has_debugger(pod: ObservedPod, index: int) -> bool:
    """Whether the environment of a container of the spec asks for one; ``pods.decode`` must have kept it."""
    containers = None if pod.spec is None else pod.spec.containers
    if containers is None or index >= len(containers):
        return False
    env = containers[index].env
    return env is not None and len(env) > 0 and env[0].value in _TRUE


def terminated_text(name: str, state: Terminated) -> str:
    """How a container's end is told to people; starts a new line."""
    if state.exit_code == 0:
        return f"\r\n[{name}] terminated with ExitCode 0."
    return (
        f"\r\n[{name}] terminated with exit code ({state.exit_code}). Reason [{state.reason}]. "
        f"Message: \n{state.message}."
    )


def _finished_badly(state: State | None) -> bool:
    """Whether a container's state speaks against success; one about which nothing is known does not."""
    if state is None:
        return False
    if state.waiting is not None or state.running is not None:
        return True
    terminated = state.terminated
    return terminated is not None and terminated.exit_code != 0


class PodPhases:
    """The rules for one configuration. ``subdomain`` makes a name one that an object may have."""

    def __init__(self, results: Results, limits: Limits, subdomain: Callable[[str], str]) -> None:
        self._limits = limits
        self._subdomain = subdomain
        self._phases = tuple(results.phases)
        self._user = results.user
        self._system = results.system
        self._ide = results.ide
        self._phase_info = results.phase_info
        self._execution_error = results.execution_error
        self._task_info = results.task_info
        self._log_context = results.log_context
        self._pod_log_context = results.pod_log_context
        self._container_context = results.container_context

    def verdict(self, pod: ObservedPod, now: datetime) -> Verdict:
        """What the pod's phase, conditions and containers say."""
        status = pod.status
        metadata = pod.metadata
        annotations = metadata.annotations
        if status is not None:
            phase = status.phase
            if phase == "Succeeded":
                return self.succeeded(status)
            if phase == "Failed":
                return self.failed(status, None if annotations is None else annotations.primary_container_name)
            if phase == "Pending":
                return self.pending(status, now)
            if phase == "Unschedulable":
                return _waits(_QUEUED, 0, "pod unschedulable")
            if phase == "Unknown":
                return _waits(_UNDEFINED, 0, "")
        if annotations is None or annotations.primary_container_name is None:
            return self._unnamed(status)
        return self._primary(status, pod.spec, annotations.primary_container_name)

    def _unnamed(self, status: Status | None) -> Verdict:
        """A running pod that does not say which container is the task's: all of them are."""
        if status is not None and status.container_statuses:
            for container in status.container_statuses:
                if _finished_badly(container.state):
                    return _waits(_RUNNING, 1, "")
            if status.init_container_statuses is not None:
                for container in status.init_container_statuses:
                    if _finished_badly(container.state):
                        return _waits(_RUNNING, 1, "")
            return self.succeeded(status)
        return _waits(_RUNNING, 1, "")

    def _primary(self, status: Status | None, spec: Spec[Any] | None, name: str) -> Verdict:
        """A running pod whose container ``name`` decides."""
        statuses = None if status is None else status.container_statuses
        if statuses is not None:
            for container_status in statuses:
                if container_status.name == name:
                    state = container_status.state
                    if state is None:
                        break
                    if state.waiting is not None or state.running is not None:
                        return _waits(_RUNNING, 1, "")
                    if state.terminated is None:
                        break
                    return self._primary_ended(name, state.terminated)
        containers = None if spec is None else spec.containers
        if containers is not None:
            for container in containers:
                if container.name == name:
                    return _waits(_RUNNING, 0, "")
        missing = f"Primary container [{name}] not found in pod's container statuses"
        return _fails(_PERMANENT_FAILURE, "PrimaryContainerNotFound", missing, False)

    def _primary_ended(self, name: str, state: Terminated) -> Verdict:
        if "OOMKilled" in state.reason:
            return _fails(_RETRYABLE_FAILURE, state.reason, terminated_text(name, state), False)
        if state.exit_code == 0:
            return _waits(_SUCCESS, 0, "")
        return _fails(
            _RETRYABLE_FAILURE, state.reason, terminated_text(name, state), state.exit_code in _KILLED_EXIT_CODES
        )

    def succeeded(self, status: Status) -> Verdict:
        for statuses in (
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        ):
            if statuses is not None:
                for container in statuses:
                    state = container.state
                    terminated = None if state is None else state.terminated
                    if terminated is not None and "OOMKilled" in terminated.reason:
                        return _fails(
                            _RETRYABLE_FAILURE, "OOMKilled", "Pod reported success despite being OOMKilled", False
                        )
        return _waits(_SUCCESS, 0, "")

    def failed(self, status: Status, primary: str | None) -> Verdict:
        """``primary`` is the container whose kill is the system's fault, if any."""
        code = status.reason or "UnknownError"
        message = status.message or "Pod failed. No message received from kubernetes."
        is_system = code in _SYSTEM_REASONS
        for statuses in (
            status.init_container_statuses,
            status.container_statuses,
            status.ephemeral_container_statuses,
        ):
            for container in statuses or ():
                state = container.last_state
                ended = None if state is None else state.terminated
                if ended is None:
                    state = container.state
                    ended = None if state is None else state.terminated
                if ended is None:
                    continue
                if "OOMKilled" in ended.reason:
                    code = "OOMKilled"
                elif ended.exit_code in _KILLED_EXIT_CODES:
                    code = "Interrupted"
                    is_system = is_system or container.name == primary
                message += terminated_text(container.name, ended)
        if is_system or code == "UnknownError":
            return _fails(_RETRYABLE_FAILURE, "Interrupted", message, True)
        return _fails(_RETRYABLE_FAILURE, code, message, False)

    def pending(self, status: Status, now: datetime) -> Verdict:
        """The first condition that explains the wait decides; time runs from when it last changed."""
        verdict = None
        since = now
        if status.conditions is not None:
            for condition in status.conditions:
                since = condition.last_transition_time or _UNSET
                kind = condition.type
                if kind == "Unschedulable" or (kind == "PodScheduled" and condition.status == "False"):
                    verdict = _waits(_QUEUED, 0, f"{condition.reason}:{condition.message}")
                    break
                if kind == "Ready" and condition.status == "False":
                    waiting = self._waiting(status)
                    if waiting is not None:
                        verdict = self._classify(condition, waiting, since, now)
                        break
        if verdict is None:
            verdict = _waits(_QUEUED, 0, "Demistify Pending")
        if verdict.phase > _RUNNING:
            return verdict
        limit = self._limits.pending
        if limit is not None:
            if now - since >= limit:
                late = _fails_waiting(_RETRYABLE_FAILURE, "PodPendingTimeout", verdict.reason, True)
                late.since = since
                return late
            if status.conditions:
                verdict.recheck_at = _earlier(verdict.recheck_at, _end(since, limit))
        return verdict

    def _waiting(self, status: Status) -> Waiting | None:
        """The first init container that waits, else the first container that waits and is not ready."""
        if status.init_container_statuses is not None:
            for container in status.init_container_statuses:
                state = container.state
                if state is not None and state.waiting is not None:
                    return state.waiting
        if status.container_statuses is not None:
            for container in status.container_statuses:
                state = container.state
                if not container.ready and state is not None and state.waiting is not None:
                    return state.waiting
        return None

    def _classify(self, condition: Condition, waiting: Waiting, since: datetime, now: datetime) -> Verdict:
        limits = self._limits
        reason = waiting.reason
        code = f"{condition.reason}|{reason}"
        message = f"{condition.message}|{waiting.message}"
        verdict = None
        grace = None
        text = ""
        phase = _PERMANENT_FAILURE
        is_system = False
        if reason == "CreateContainerError":
            grace, text = limits.create_container_error, limits.create_container_error_text
        elif reason == "CreateContainerConfigError":
            grace, text = limits.create_container_config_error, limits.create_container_config_error_text
        elif reason == "ImagePullBackOff":
            grace, text = limits.image_pull_backoff, limits.image_pull_backoff_text
            phase = _RETRYABLE_FAILURE
            is_system = "429 Too Many Requests" in waiting.message
        elif reason == "InvalidImageName":
            verdict = _fails_waiting(_PERMANENT_FAILURE, code, message, False)
        elif reason not in _STARTING:
            verdict = _fails_waiting(_RETRYABLE_FAILURE, code, message, True)
        if grace is not None and now - since >= grace:
            verdict = _fails_waiting(phase, code, f"Grace period [{text}] exceeded|{message}", is_system)
        if verdict is None:
            verdict = _waits(_INITIALIZING, 0, f"[{code}]: {message}")
            if grace is not None:
                verdict.recheck_at = _end(since, grace)
        verdict.since = since
        return verdict

    def logs(self, pod: ObservedPod, plan: Any, task_execution_id: Any, now: datetime) -> tuple[Any, ...]:
        """Links of the pod's first container, once it has a status; none of a pod in an unknown state."""
        status = pod.status
        if status is None or status.phase == "Unknown":
            return ()
        used = plan.used
        values = _pod_values(pod, 0, used, now)
        if values is None:
            return ()
        _add_identity(values, used, task_execution_id, self._subdomain)
        debugged = plan.needs_environment and has_debugger(pod, 0)
        rendered: tuple[Any, ...] | None = None if plan.plain is None else plan.plain.render(values, debugged)
        if rendered is not None:
            return rendered
        every = _pod_values(pod, 0, links.ALL, now) or []
        _add_identity(every, links.ALL, task_execution_id, self._subdomain)
        substituted: tuple[Any, ...] = plan.substitute(every, has_debugger=debugged)
        return substituted

    def phase_info(
        self,
        pod: ObservedPod,
        logs: tuple[Any, ...],
        now: datetime,
        last_phase: int,
        last_version: int,
        last_reason: str,
    ) -> Any:
        """The verdict on a task's own pod, with all that is told along with it.

        A reason other than the last one within the same phase gets a new version.
        """
        verdict = self.verdict(pod, now)
        phase = verdict.phase
        version = verdict.version
        reason = verdict.reason
        if phase >= _RUNNING:
            for index, log in enumerate(logs):
                if log.link_type is self._ide:
                    ready = is_ready(pod)
                    told = "Vscode server is ready" if ready else "Vscode server is not ready"
                    reason = f"{reason}, {told}" if reason else told
                    logs = (*logs[:index], msgspec.structs.replace(log, ready=ready), *logs[index + 1 :])
                    break
        if phase == last_phase and version <= last_version and reason != last_reason:
            version = last_version + 1
        if phase == _UNDEFINED:
            info = None
        elif verdict.since is not None:
            info = self._task_info(verdict.since)
        else:
            info = self.task_info(pod, logs, now)
        return self._phase_info(
            self._phases[phase],
            version,
            reason,
            self.error(verdict),
            info,
            verdict.cleanup,
            verdict.recheck_at,
        )

    def error(self, verdict: Verdict) -> Any:
        if verdict.phase < _RETRYABLE_FAILURE:
            return None
        kind = self._system if verdict.is_system else self._user
        return self._execution_error(verdict.code, verdict.message, kind)

    def task_info(self, pod: ObservedPod, logs: tuple[Any, ...], now: datetime) -> Any:
        status = pod.status
        occurred = None if status is None else self._occurred_at(status)
        if occurred is None:
            occurred = now
        reported = None if status is None else self._completed_at(status)
        if reported is None:
            reported = occurred
        metadata = pod.metadata
        context = self._log_context((self.pod_log_context(pod),), metadata.name)
        return self._task_info(occurred, reported, logs, context)

    def _occurred_at(self, status: Status) -> datetime | None:
        """The latest start or end of a container in whole seconds; ``None`` when there is none."""
        latest = None
        for statuses in (status.container_statuses, status.init_container_statuses):
            if statuses is not None:
                for container in statuses:
                    state = container.state
                    if state is None:
                        continue
                    when = None
                    running, terminated = state.running, state.terminated
                    if running is not None:
                        when = running.started_at
                    elif terminated is not None:
                        when = terminated.finished_at
                    if when is not None and when != _UNSET and (latest is None or when > latest):
                        latest = when
        return latest.replace(microsecond=0) if latest is not None and latest.microsecond else latest

    def _completed_at(self, status: Status) -> datetime | None:
        conditions = status.conditions
        latest = None
        if conditions is not None:
            for condition in conditions:
                if condition.reason == "PodCompleted" and condition.type == "Ready" and condition.status == "False":
                    when = condition.last_transition_time
                    if when is not None and when != _UNSET and (latest is None or when > latest):
                        latest = when
        return latest

    def pod_log_context(self, pod: ObservedPod) -> Any:
        """The pod and its containers in the order of their statuses."""
        metadata = pod.metadata
        status = pod.status
        return self._pod_log_context(
            metadata.namespace,
            metadata.name,
            primary_container_name(pod),
            self._containers(None if status is None else status.container_statuses),
            self._containers(None if status is None else status.init_container_statuses),
        )

    def _containers(self, statuses: tuple[ContainerStatus, ...] | None) -> tuple[Any, ...]:
        if statuses is None:
            return ()
        contexts = []
        for status in statuses:
            state = status.state
            start: datetime | None = None
            end: datetime | None = None
            if state is not None:
                running, terminated = state.running, state.terminated
                if running is not None:
                    start = running.started_at or _UNSET
                elif terminated is not None:
                    start = terminated.started_at or _UNSET
                    end = terminated.finished_at or _UNSET
            contexts.append(self._container_context(status.name, start, end))
        return tuple(contexts)


def is_terminal(pod: ObservedPod) -> bool:
    return pod.status is not None and pod.status.phase in ("Succeeded", "Failed")


def completion_time(pod: ObservedPod) -> datetime | None:
    """The latest end of a container, now or before; else when the pod was deleted, started, created."""
    status = pod.status
    latest = None
    if status is not None:
        for statuses in (status.init_container_statuses, status.container_statuses):
            for container in statuses or ():
                for state in (container.last_state, container.state):
                    ended = None if state is None or state.terminated is None else state.terminated.finished_at
                    if ended is not None and ended != _UNSET and (latest is None or ended > latest):
                        latest = ended
    if latest is not None:
        return latest
    started = None if status is None else status.start_time
    return pod.metadata.deletion_timestamp or started or pod.metadata.creation_timestamp
