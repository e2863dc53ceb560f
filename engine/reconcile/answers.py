"""What plugins answer, checked: the state machine and the wire see only what they can take."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from propfan.engine.task_events import readable, readable_error
from propfan.engine.task_state import Observed
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.phases import Phase, PhaseInfo

_MAX_VERSION: Final = 2**32 - 1
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(PhaseInfo).decode


def observed(info: PhaseInfo) -> Observed:
    """A checked verdict as an event."""
    return Observed(
        phase=info.phase,
        version=info.version,
        reason=info.reason,
        error=info.error,
        info=info.info,
        remove_object=info.cleanup_on_failure,
        recheck_at=info.recheck_at,
    )


def phase_info(answer: object, plugin_id: str) -> PhaseInfo:
    """The plugin's verdict, if it is one.

    Raises:
        TaskError: code ``InvalidPhaseInfo``; it is not, the message says where.
    """
    if not isinstance(answer, PhaseInfo):
        raise _wrong(plugin_id, f"is a {type(answer).__name__}, not a PhaseInfo")
    if not isinstance(answer.phase, Phase):
        raise _wrong(plugin_id, f"phase: {answer.phase!r} is not a Phase")
    try:  # Structs check nothing when they are made
        reason, error = readable(answer.reason), readable_error(answer.error)
        if reason is not answer.reason or error is not None:
            answer = msgspec.structs.replace(answer, reason=reason, error=error)
        info = _decode(_encode(answer))
    except (AttributeError, TypeError, ValueError, RecursionError, msgspec.MsgspecError) as problem:
        raise _wrong(plugin_id, str(problem)) from problem
    if not 0 <= info.version <= _MAX_VERSION:
        raise _wrong(plugin_id, f"version: {info.version} is not between 0 and {_MAX_VERSION}")
    _check_zone(plugin_id, "recheck_at", info.recheck_at)
    if info.info is not None:
        _check_zone(plugin_id, "info.occurred_at", info.info.occurred_at)
        _check_zone(plugin_id, "info.reported_at", info.info.reported_at)
    return info


def _check_zone(plugin_id: str, field: str, time: datetime | None) -> None:
    if time is not None and time.tzinfo is None:
        raise _wrong(plugin_id, f"{field}: {time} has no time zone")


def _wrong(plugin_id: str, problem: str) -> TaskError:
    return TaskError("InvalidPhaseInfo", f"the answer of plugin '{plugin_id}': {problem}")
