"""``TaskAction`` (``flyte.org/v1``) as it is on the wire: the object that stands for one task.

Only what propfan reads or writes is declared; other fields pass through untouched, because status
is written by merge patches of these fields alone. Bytes are base64 in JSON.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import ObjectMeta

FINALIZER: Final = "flyte.org/plugin-finalizer"
TERMINATION_STATUS_LABEL: Final = "flyte.org/termination-status"
COMPLETED_TIME_LABEL: Final = "flyte.org/completed-time"
COMPLETED_TIME_FORMAT: Final = "%Y-%m-%d.%H-%M"
"""UTC, to the minute; later times are greater texts."""
MANAGED_LABEL: Final = "flyte.org/managed"
INVALID_SPEC: Final = "InvalidSpec"

ABORT_ANNOTATION: Final = "propfan.dev/abort"
"""Its value is the reason: the task is aborted and its object kept, unlike with a deletion."""

CACHE_OVERWRITE_ANNOTATION: Final = "propfan.dev/cache-overwrite"
"""``true``: the task runs even where its outputs are cached, and its own take their place."""

TASK: Final = "task"
CONDITION: Final = "condition"
"""Values of ``actionType``; empty means a task."""


class TaskActionSpec(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What shall run. ``task_template`` is a serialised ``core.TaskTemplate``."""

    run_name: str = ""
    project: str = ""
    domain: str = ""
    action_name: str = ""
    parent_action_name: str | None = None
    action_type: str = ""
    condition_spec: bytes | None = None
    input_uri: str = ""
    run_output_base: str = ""
    cache_key: str = ""
    task_type: str = ""
    short_name: str = ""
    task_template: bytes | None = None
    env_vars: Mapping[str, str] = {}
    interruptible: bool | None = None
    group: str = ""


class Condition(msgspec.Struct, frozen=True, rename="camel"):
    """``metav1.Condition``; ``status`` is ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str
    reason: str
    message: str
    last_transition_time: datetime


class PhaseHistoryEntry(msgspec.Struct, frozen=True, rename="camel"):
    phase: str
    occurred_at: datetime
    message: str = ""


class ErrorState(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why the task failed; ``kind`` is ``USER``, ``SYSTEM`` or empty."""

    code: str = ""
    kind: str = ""
    message: str = ""


class TaskActionStatus(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """Where it stands. ``attempts`` counts from 1; 0 is unset and means 1."""

    state_json: str = ""
    plugin_state: bytes | None = None
    plugin_state_version: int = 0
    plugin_phase: str = ""
    plugin_phase_version: int = 0
    attempts: int = 0
    system_failures: int = 0
    cache_status: str = ""
    conditions: Sequence[Condition] = ()
    phase_history: Sequence[PhaseHistoryEntry] = ()
    error_state: ErrorState | None = None
    signal_value: bytes | None = None
    signalled_by: str = ""
    signalled_at: datetime | None = None


class TaskAction(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    spec: TaskActionSpec = TaskActionSpec()
    status: TaskActionStatus = TaskActionStatus()


MAX_LENGTHS: Final[Mapping[str, int]] = {
    "runName": 30,
    "project": 63,
    "domain": 63,
    "actionName": 30,
    "parentActionName": 30,
    "cacheKey": 256,
    "taskType": 63,
    "shortName": 63,
    "group": 256,
}
"""Characters of the spec's fields (the CustomResourceDefinition of ``taskactions.flyte.org``)."""

_ATTRIBUTES: Final = {field.encode_name: field.name for field in msgspec.structs.fields(TaskActionSpec)}


def _with_values(*fields: str) -> tuple[Sequence[str], operator.attrgetter[tuple[Any, ...]]]:
    return fields, operator.attrgetter(*[_ATTRIBUTES[field] for field in fields])


_REQUIRED: Final = _with_values("runName", "project", "domain", "actionName")
_REQUIRED_OF_TASKS: Final = _with_values(*_REQUIRED[0], "taskType", "taskTemplate", "inputUri", "runOutputBase")
_limited_values: Final = _with_values(*MAX_LENGTHS)[1]


def validate(action: TaskAction) -> None:
    """Refuse a spec that can not be run, whatever let it into the cluster.

    Raises:
        PermanentError: code ``InvalidSpec``; names every missing field, else every field that is too long,
            else what no path can be made of.
    """
    spec = action.spec
    if spec.action_type not in ("", TASK, CONDITION):
        raise PermanentError(INVALID_SPEC, f"spec.actionType: {spec.action_type!r} is neither {TASK} nor {CONDITION}")
    required, values_of = _REQUIRED if spec.action_type == CONDITION else _REQUIRED_OF_TASKS
    values = values_of(spec)
    if not all(values):
        missing = [field for field, value in zip(required, values, strict=True) if not value]
        raise PermanentError(INVALID_SPEC, f"required spec fields are empty: [{', '.join(missing)}]")
    lengths = [len(value or "") for value in _limited_values(spec)]
    if any(map(operator.gt, lengths, MAX_LENGTHS.values())):
        too_long = [
            f"spec.{field}: {length} characters, at most {limit}"
            for (field, limit), length in zip(MAX_LENGTHS.items(), lengths, strict=True)
            if length > limit
        ]
        raise PermanentError(INVALID_SPEC, f"spec fields are too long: [{'; '.join(too_long)}]")
    # It is a folder below runOutputBase: another action's outputs must be out of its reach.
    if "/" in spec.action_name or spec.action_name in (".", ".."):
        raise PermanentError(INVALID_SPEC, f"spec.actionName: {spec.action_name!r} can not be the name of a folder")
