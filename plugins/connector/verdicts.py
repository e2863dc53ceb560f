"""What a connector's word on a job means for its task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2

from propfan._speedups import structs
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.phases import LinkType, LogContext, MessageFormat, PhaseInfo, TaskInfo, TaskLog

FAILED: Final = "TaskFailedWithError"
INVALID_OUTPUTS: Final = "InvalidOutputs"

_PHASE: Final = execution_pb2.TaskExecution.Phase

_SIMPLE: Final = types_pb2.SimpleType
_PRIMITIVES: Final = {
    _SIMPLE.INTEGER: "integer",
    _SIMPLE.FLOAT: "float_value",
    _SIMPLE.STRING: "string_value",
    _SIMPLE.BOOLEAN: "boolean",
    _SIMPLE.DATETIME: "datetime",
    _SIMPLE.DURATION: "duration",
}

_LINK_TYPES: Final = {int(kind): kind for kind in LinkType}
_FORMATS: Final = {int(form): form for form in MessageFormat}


async def phase_info(
    ctx: TaskContext, resource: connector_pb2.Resource, *, endpoint: str, app_links: tuple[TaskLog, ...] = ()
) -> PhaseInfo:
    """The verdict; outputs that came along with a success are written.

    Args:
        endpoint: Of the connector; logs are read there.
        app_links: Added to those of the connector.

    Raises:
        TaskError: code ``SystemError``; the phase is none that says anything.
        StorageError: the outputs can not be written now.
    """
    now, message = ctx.now, resource.message
    info = TaskInfo(
        occurred_at=now,
        logs=(*map(_log, resource.log_links), *app_links),
        log_context=LogContext(connector_endpoint=endpoint) if endpoint else None,
        custom_info=_custom_info(resource),
    )
    match resource.phase:
        case _PHASE.RUNNING:
            return phases.running(now, phases.DEFAULT_PHASE_VERSION, info)
        case _PHASE.QUEUED:
            return phases.queued(now, phases.DEFAULT_PHASE_VERSION, message, info)
        case _PHASE.WAITING_FOR_RESOURCES:
            return phases.waiting_for_resources(now, phases.DEFAULT_PHASE_VERSION, message, info)
        case _PHASE.INITIALIZING:
            return phases.initializing(now, phases.DEFAULT_PHASE_VERSION, message, info)
        case _PHASE.SUCCEEDED:
            await _write_outputs(ctx, resource)
            return phases.success(now, info)
        case _PHASE.ABORTED:
            return phases.failure(FAILED, "failed to run the job with aborted phase.", now, info)
        case _PHASE.FAILED:
            return phases.failure(FAILED, f"failed to run the job: {message}", now, info)
        case _PHASE.RETRYABLE_FAILED:
            return phases.retryable_failure(FAILED, f"failed to run the job: {message}", now, info)
    known = _PHASE.DESCRIPTOR.values_by_number.get(resource.phase)
    raise TaskError("SystemError", f"unknown execution phase [{known.name if known else resource.phase}].")


async def _write_outputs(ctx: TaskContext, resource: connector_pb2.Resource) -> None:
    """Where the SDK reads them. Without any in the answer they are at that place already."""
    if not ctx.template.interface.outputs.variables or not resource.HasField("outputs"):
        return
    found = {literal.name: literal.value for literal in resource.outputs.literals}  # a later one of a name wins
    outputs = common_pb2.Outputs()
    for name, value in found.items():
        outputs.literals.add(name=name, value=value)
    await ctx.output_writer.put(outputs)


def problems_of_outputs(interface: interface_pb2.TypedInterface, resource: connector_pb2.Resource) -> Iterator[str]:
    """How the outputs in the answer of a success do not fit what the task declares.

    Every declared one must be there, unless it is optional, and be of its declared form; others do no harm.
    """
    if resource.phase != _PHASE.SUCCEEDED or not resource.HasField("outputs"):
        return
    found = {literal.name: literal.value for literal in resource.outputs.literals}
    for variable in interface.outputs.variables:
        kind, literal = variable.value.type, found.get(variable.key)
        if literal is None:
            if not _is_optional(kind):
                got = ", ".join(found) or "none"
                yield f"{variable.key} is declared and missing (outputs in the answer: {got})"
        elif problem := _misfit(literal, kind):
            yield f"{variable.key} {problem}"


def _misfit(literal: literals_pb2.Literal, kind: types_pb2.LiteralType) -> str:
    """What is wrong with the outermost form; forms that clients convert are let through."""
    form = literal.WhichOneof("value")
    match kind.WhichOneof("type"):
        case "simple" if kind.simple in _PRIMITIVES:
            wanted = _PRIMITIVES[kind.simple]
            is_primitive = form == "scalar" and literal.scalar.WhichOneof("value") == "primitive"
            got = literal.scalar.primitive.WhichOneof("value") if is_primitive else _form(literal)
            return "" if got == wanted else f"must be a primitive {wanted}, is {got}"
        case "collection_type" if form not in ("collection", "scalar", "offloaded_metadata"):
            return f"must be a collection, is {_form(literal)}"
        case "map_value_type" if form not in ("map", "scalar", "offloaded_metadata"):
            return f"must be a map, is {_form(literal)}"
    return ""


def _form(literal: literals_pb2.Literal) -> str:
    form = literal.WhichOneof("value") or "nothing"
    return literal.scalar.WhichOneof("value") or form if form == "scalar" else form


def _is_optional(kind: types_pb2.LiteralType) -> bool:
    return any(
        variant.WhichOneof("type") == "simple" and variant.simple == _SIMPLE.NONE
        for variant in kind.union_type.variants
    )


def _log(link: execution_pb2.TaskLog) -> TaskLog:
    return TaskLog(
        uri=link.uri,
        name=link.name,
        message_format=_FORMATS.get(link.message_format, MessageFormat.UNKNOWN),
        show_while_pending=link.ShowWhilePending,
        hide_once_finished=link.HideOnceFinished,
        link_type=_LINK_TYPES.get(link.link_type, LinkType.EXTERNAL),
        ready=link.ready,
        icon_uri=link.icon_uri,
        ttl_s=link.ttl.seconds + link.ttl.nanos / 1e9 if link.HasField("ttl") else None,
    )


def _custom_info(resource: connector_pb2.Resource) -> Mapping[str, Any] | None:
    if not resource.HasField("custom_info"):
        return None
    try:
        return structs.to_value(resource.custom_info.SerializeToString())
    except ValueError as error:  # it is only for display
        return {"unreadable": str(error)}
