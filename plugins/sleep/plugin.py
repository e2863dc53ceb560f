"""The plugin behind ``core-sleep``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
from flyteidl2.core.types_pb2 import SimpleType

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import CoreContext
from propfan.pluginmachinery.core_plugin import CoreProperties
from propfan.pluginmachinery.errors import (
    BAD_TASK_SPECIFICATION,
    CORRUPTED_PLUGIN_STATE,
    BadTaskSpecificationError,
    PermanentError,
)
from propfan.pluginmachinery.phases import PhaseInfo, Transition

TASK_TYPE: Final = "core-sleep"
STATE_VERSION: Final = 1

_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)


class SleepState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What outlives a restart: when the attempt began, and when it is over."""

    started_at: datetime
    ends_at: datetime


class SleepPlugin:
    """Running from the first round until the duration has passed, by the clock of the rounds."""

    async def handle(self, ctx: CoreContext) -> Transition:
        if ctx.state:
            state = _decode(ctx)
        else:
            try:
                duration = await _duration(ctx)
            except BadTaskSpecificationError as error:
                return Transition(phases.failure(BAD_TASK_SPECIFICATION, error.message, ctx.now))
            state = SleepState(ctx.now, _end(ctx.now, duration))
            ctx.put_state(STATE_VERSION, msgspec.json.encode(state))
        return Transition(_verdict(ctx.now, state))

    async def abort(self, ctx: CoreContext) -> None:
        """Nothing runs anywhere."""

    async def finalize(self, ctx: CoreContext) -> None:
        """Nothing is held anywhere."""

    def get_properties(self) -> CoreProperties:
        return CoreProperties()


def _verdict(now: datetime, state: SleepState) -> PhaseInfo:
    if now >= state.ends_at:
        return phases.success(now)
    return phases.running(now, phases.DEFAULT_PHASE_VERSION).rechecked_at(state.ends_at)


def _decode(ctx: CoreContext) -> SleepState:
    problem = f"state version {ctx.state_version} is not {STATE_VERSION}"
    if ctx.state_version == STATE_VERSION:
        try:
            state = msgspec.json.decode(ctx.state, type=SleepState)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = str(error)
        else:
            if state.started_at.tzinfo is not None and state.ends_at.tzinfo is not None:
                return state
            problem = "a time has no time zone"
    name = ctx.metadata.task_execution_id.generated_name
    raise PermanentError(CORRUPTED_PLUGIN_STATE, f"state of {TASK_TYPE} task '{name}' can not be read: {problem}")


def _end(start: datetime, duration: timedelta) -> datetime:
    """Later than the calendar ends is when it ends."""
    return start + duration if duration <= _END_OF_TIME - start else _END_OF_TIME


async def _duration(ctx: CoreContext) -> timedelta:
    """The one input, after the template is found to declare nothing else.

    Raises:
        BadTaskSpecificationError: template or input are not what the task type asks for.
        StorageError, DecodeError: the inputs can not be read.
    """
    about = f"task type [{TASK_TYPE}]"
    interface = ctx.template.interface
    declared = interface.inputs.variables
    if len(declared) != 1:
        raise BadTaskSpecificationError(f"{about} requires exactly one duration input")
    if interface.outputs.variables:
        raise BadTaskSpecificationError(f"{about} does not support outputs")
    name = declared[0].key
    if declared[0].value.type.simple != SimpleType.DURATION:
        raise BadTaskSpecificationError(f"input [{name}] must be typed as duration")
    inputs = await ctx.inputs.read()
    if inputs is None or not inputs.literals:
        raise BadTaskSpecificationError(f"{about} requires a duration input value")
    if name not in inputs.literals:
        raise BadTaskSpecificationError(f"duration input [{name}] is missing")
    primitive = inputs.literals[name].scalar.primitive
    if primitive.WhichOneof("value") != "duration":
        raise BadTaskSpecificationError(f"duration input [{name}] must be a duration literal")
    # Not ToTimedelta, which refuses more than 10000 years; nanoseconds count as a whole microsecond.
    duration = primitive.duration
    if duration.seconds < 0 or duration.nanos < 0:
        raise BadTaskSpecificationError(f"duration input [{name}] must be non-negative")
    days = min(duration.seconds // 86_400, timedelta.max.days - 1)
    return timedelta(days, duration.seconds % 86_400, -(-duration.nanos // 1000))
