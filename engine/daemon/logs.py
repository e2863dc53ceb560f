"""Logs of a daemon: one JSON object per line, or lines for people."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Final

import msgspec
import structlog

from propfan.engine.config import LogFormat, ServingSection
from propfan.engine.task_events import EventSink, TaskEvent

logger = structlog.get_logger(__name__)

subject: Final[ContextVar[Mapping[str, object] | None]] = ContextVar("subject", default=None)
"""What a round is about, in every line that is logged within. One variable, not one for each name: rounds are many."""


def configure(serving: ServingSection) -> None:
    """Everything goes to standard error; what libraries log through ``logging`` too, from warnings on."""
    level = logging.getLevelNamesMapping()[serving.log_level.value.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _with_subject,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if serving.log_format is LogFormat.JSON:
        last: list[Any] = [
            structlog.processors.dict_tracebacks,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    else:
        plain = structlog.dev.plain_traceback
        last = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(processors=[_without_record, *last], foreign_pre_chain=shared)
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def _with_subject(_: object, __: str, event: Any) -> Any:
    names = subject.get()
    return event if names is None else {**names, **event}


def _without_record(_: object, __: str, event: Any) -> Any:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(None, "", event)


def _json(value: Any, **_: object) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


class LoggedSink:
    """Logs each event once it is recorded: verdicts and failures for everybody, the way to them for ``debug``."""

    def __init__(self, sink: EventSink | None = None) -> None:
        self._sink: Final = sink

    async def record(self, events: Sequence[TaskEvent]) -> None:
        if self._sink is not None:
            await self._sink.record(events)
        for event in events:
            tell = logger.info if event.is_final or event.error is not None else logger.debug
            names: dict[str, object] = {
                "task": f"{event.namespace}/{event.name}",
                "run": event.run,
                "action": event.action,
                "attempt": event.attempt,
                "phase": event.phase.name,
                "version": event.version,
            }
            if event.reason:
                names["reason"] = event.reason
            if event.error is not None:
                names |= {"code": event.error.code, "kind": event.error.kind.value, "error": event.error.message}
            tell("task is over" if event.is_final else "phase changed", **names)
