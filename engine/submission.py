"""Submitting a task, and what can be read of it afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine.cluster import TASK_ACTION, Cluster, ObservedObject
from propfan.engine.reconcile.live_task import TaskKey, decode
from propfan.engine.reconcile.rounds import parse_condition
from propfan.engine.reconcile.task_context import parse_template
from propfan.engine.status import final_condition, outcome_of
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery import iopaths, names
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta
from propfan.pluginmachinery.phases import ZERO_TIME, ErrorKind, ExecutionError, Phase
from propfan.pluginmachinery.taskaction import (
    COMPLETED_TIME_LABEL,
    CONDITION,
    FINALIZER,
    TASK,
    TERMINATION_STATUS_LABEL,
    ErrorState,
    PhaseHistoryEntry,
    TaskAction,
    TaskActionSpec,
    TaskActionStatus,
    validate,
)

_RUN_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"

_KINDS: Final = {kind.value: kind for kind in ErrorKind}

MAX_TEMPLATE_BYTES: Final = 1024 * 1024
"""A larger template could not be stored in an API server (etcd takes 1.5 MiB, the template is base64)."""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """A task to run, or a condition to wait for: exactly one of ``template`` and ``condition``.

    Attributes:
        template: Serialised ``core.TaskTemplate``.
        condition: Serialised ``workflow.ConditionAction``; see ``Engine.signal``.
        inputs: Content of ``inputs.pb`` (``task.Inputs`` or ``core.LiteralMap``); ``None`` when
            ``input_uri`` says where they are, or there are none.
        run_name: Made up when empty. 1 to 30 characters, as ``action_name``.
        project, domain: Taken from the template's id when empty.
        namespace: The engine's own when empty.
        input_uri, run_output_base: Below the engine's store when empty.
        cache_key: Version of the cached outputs; the template's ``discovery_version`` when empty.
    """

    template: bytes = b""
    condition: bytes | None = None
    inputs: bytes | None = None
    run_name: str = ""
    action_name: str = "a0"
    parent_action_name: str | None = None
    project: str = ""
    domain: str = ""
    namespace: str = ""
    input_uri: str = ""
    run_output_base: str = ""
    cache_key: str = ""
    env_vars: Mapping[str, str] = {}
    interruptible: bool | None = None
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    group: str = ""


class TaskStatus(msgspec.Struct, frozen=True):
    """Where a task stands.

    Attributes:
        outcome: ``None`` while it goes on.
        attempts: The present one, from 1.
        output_prefix: Where the present attempt leaves its outputs; empty for a condition action.
    """

    key: TaskKey
    run_name: str
    action_name: str
    task_type: str
    task_name: str
    phase: Phase
    outcome: Outcome | None
    reason: str
    attempts: int
    system_failures: int
    created_at: datetime
    ended_at: datetime | None
    error: ExecutionError | None
    cache_status: str
    history: Sequence[PhaseHistoryEntry]
    output_prefix: str


def new_run_name() -> str:
    """``r`` and 19 random characters, a DNS-1035 label as Flyte's."""
    return "r" + "".join(secrets.choice(_RUN_ALPHABET) for _ in range(19))


def to_task_action(submission: Submission, *, namespace: str, store: str) -> TaskAction:
    """The object that stands for the task; nothing is created.

    Raises:
        BadTaskSpecificationError: the template is not one, or is too large.
        TaskError: a field is missing or too long, all are named; or the condition is not one.
        ConfigError: there is not exactly one of a template and a condition, no object can have the name, or
            a label is the engine's own.
    """
    is_condition = submission.condition is not None
    if is_condition == bool(submission.template):
        raise ConfigError("template", "a submission is exactly one of a template and a condition")
    if len(submission.template) > MAX_TEMPLATE_BYTES:
        raise BadTaskSpecificationError(
            f"the task template has {len(submission.template)} bytes, the limit is {MAX_TEMPLATE_BYTES}"
        )
    template = parse_template(submission.template)
    run = submission.run_name or new_run_name()
    project = submission.project or template.id.project or "local"
    domain = submission.domain or template.id.domain or "development"
    action = submission.action_name
    base = submission.run_output_base or iopaths.join(store, project, domain, run) + "/"
    name = f"{run}-{action}"
    if not names.is_dns1123_subdomain(name):
        raise ConfigError(
            "run_name", f"'{name}' (<run>-<action>) is no object name: lower-case letters, digits and '-' only"
        )
    for label in (TERMINATION_STATUS_LABEL, COMPLETED_TIME_LABEL):
        if label in submission.labels:
            raise ConfigError("labels", f"{label} is set by the engine when a task is over: leave it out")
    labels = {
        **submission.labels,
        "flyte.org/project": project,
        "flyte.org/domain": domain,
        "flyte.org/run": run,
        "flyte.org/action": action,
        "flyte.org/action-type": CONDITION if is_condition else TASK,
        "flyte.org/is-root": "false" if submission.parent_action_name else "true",
    }
    made = TaskAction(
        metadata=ObjectMeta(
            name=name,
            namespace=namespace,
            labels=labels,
            annotations=submission.annotations,
            finalizers=() if is_condition else (FINALIZER,),
        ),
        spec=TaskActionSpec(
            run_name=run,
            project=project,
            domain=domain,
            action_name=action,
            parent_action_name=submission.parent_action_name,
            action_type=CONDITION if is_condition else TASK,
            condition_spec=submission.condition,
            input_uri="" if is_condition else submission.input_uri or iopaths.join(base, action, iopaths.INPUTS_FILE),
            run_output_base=base,
            cache_key=submission.cache_key or template.metadata.discovery_version,
            task_type=template.type,
            short_name=template.id.name.rpartition(".")[2][:63],
            task_template=submission.template or None,
            env_vars=submission.env_vars,
            interruptible=submission.interruptible,
            group=submission.group,
        ),
    )
    validate(made)
    if is_condition:
        parse_condition(made.spec)
    return made


def to_json(action: TaskAction) -> bytes:
    """The object as it is created."""
    return msgspec.json.encode(
        {
            "apiVersion": TASK_ACTION.api_version,
            "kind": TASK_ACTION.kind,
            "metadata": action.metadata,
            "spec": action.spec,
        }
    )


def status_of(seen: ObservedObject) -> TaskStatus:
    """What the TaskAction says of its task, as far as it can be read."""
    try:
        action, problem = decode(seen), ""
    except DecodeError as unreadable:
        action, problem = TaskAction(seen.metadata, status=_readable_status(seen)), str(unreadable)
    meta, spec, status = action.metadata, action.spec, action.status
    final = final_condition(status)
    attempts = max(status.attempts, 1)
    has_outputs = bool(spec.run_output_base) and spec.action_type != CONDITION
    return TaskStatus(
        key=TaskKey(meta.namespace, meta.name),
        run_name=spec.run_name,
        action_name=spec.action_name,
        task_type=spec.task_type,
        task_name=_task_name(spec.task_template),
        phase=_phase(status.plugin_phase),
        outcome=None if final is None else outcome_of(final),
        reason=next((c.message for c in status.conditions if c.type == "Progressing"), problem),
        attempts=attempts,
        system_failures=status.system_failures,
        created_at=meta.creation_timestamp or ZERO_TIME,
        ended_at=final.last_transition_time if final is not None else None,
        error=_error(status.error_state),
        cache_status=status.cache_status,
        history=status.phase_history,
        output_prefix=iopaths.attempt_paths(action, attempts).output_prefix if has_outputs else "",
    )


def _error(state: ErrorState | None) -> ExecutionError | None:
    if state is None:
        return None
    return ExecutionError(state.code, state.message, _KINDS.get(state.kind, ErrorKind.UNKNOWN))


class _StatusOnly(msgspec.Struct):
    status: TaskActionStatus = TaskActionStatus()


def _readable_status(seen: ObservedObject) -> TaskActionStatus:
    """Of an object whose spec, or even status, is not what it should be; the engine refuses it, and says so there."""
    try:
        return msgspec.json.decode(seen.raw, type=_StatusOnly).status
    except (ValueError, RecursionError):
        return TaskActionStatus()


class _Observability(msgspec.Struct, frozen=True, rename="camel"):
    attempt_errors: Sequence[str] = ()


def attempt_errors_of(seen: ObservedObject) -> Sequence[str]:
    """Why earlier attempts failed, oldest first, as the status tells it."""
    try:
        return msgspec.json.decode(decode(seen).status.state_json, type=_Observability).attempt_errors
    except msgspec.DecodeError:  # empty, or another executor's
        return ()


def _phase(wire_name: str) -> Phase:
    try:
        return Phase.from_wire_name(wire_name)
    except KeyError:
        return Phase.UNDEFINED


def _task_name(template: bytes | None) -> str:
    if not template:
        return ""
    try:
        return str(tasks_pb2.TaskTemplate.FromString(template).id.name)
    except ProtobufDecodeError:
        return ""


async def all_of(cluster: Cluster) -> Sequence[TaskStatus]:
    """Every task of a cluster, also those that are over."""
    found: list[TaskStatus] = []
    token = ""
    while True:
        page = await cluster.list(TASK_ACTION, continue_token=token)
        found += [status_of(seen) for seen in page.items]
        token = page.continue_token
        if not token:
            return found
