"""What a connector is asked."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from propfan._speedups import structs
from propfan.pluginmachinery.connector import values
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError

if TYPE_CHECKING:
    from flyteidl2.connector import connector_pb2
    from flyteidl2.core import tasks_pb2
    from flyteidl2.task import common_pb2

T = TypeVar("T")

IDEMPOTENCY_ANNOTATION: Final = "propfan.dev/idempotency-key"
"""Of ``task_execution_metadata``: names one launch, where the caller tells launches of an attempt apart.

propfan's engine does: it launches an attempt again when it had to give up the first job.
"""

_NOT_IN_NAMES: Final = re.compile(r"[^a-z0-9]+")
_DIGEST_CHARS: Final = 16
_MIN_NAME_CHARS: Final = _DIGEST_CHARS + 1
_EXACT: Final = 2.0**53
"""Beyond it a double does not tell neighbouring integers apart."""


class Connection(msgspec.Struct, frozen=True):
    """What the task brings to reach the service (``core.Connection``); secrets are values, never shown in a repr."""

    secrets: Mapping[str, str] = {}
    configs: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Connection(secrets={sorted(self.secrets)}, configs={sorted(self.configs)})"


class TaskRequest(msgspec.Struct, frozen=True):
    """One attempt of a task, to be started.

    Attributes:
        template: Nobody may change it. Placeholders in the container's arguments are filled in already.
        literals: What the task is called with, as it came; ``inputs()`` has Python's values.
        output_prefix: URI below which ``outputs.pb`` is expected of a job that writes it itself.
        metadata: Who runs it; ``None`` in a local run of an SDK.
        time_left_s: How long the caller of ``do`` waits for its end, seconds; ``None`` when it does not say. One who has
            given up asks again, so what must not be done twice is better given up before.
    """

    template: tasks_pb2.TaskTemplate
    literals: common_pb2.Inputs
    output_prefix: str = ""
    metadata: connector_pb2.TaskExecutionMetadata | None = None
    connection: Connection = Connection()
    time_left_s: float | None = None

    def inputs(self) -> dict[str, Any]:
        """What the task is called with, as Python's values; see ``values``.

        Raises:
            BadTaskSpecificationError: an input is of a kind that has no plain value; named.
        """
        return values.to_natives(self.literals)

    def custom(self, shape: type[T]) -> T:
        """The template's ``custom`` as a Struct; its defaults when there is none.

        Numbers without a fraction count as integers, which JSON on the wire does not tell apart.

        Raises:
            BadTaskSpecificationError: a value is missing or of another type; the message says which.
        """
        try:
            value = structs.to_value(self.template.custom.SerializeToString())
            return msgspec.convert(_with_integers(value), shape)
        except (msgspec.ValidationError, structs.StructError) as error:
            problem = f"custom is no {shape.__name__}: {error}"
            raise BadTaskSpecificationError(
                f"task '{self.template.id.name}' ({self.template.type}): {problem}"
            ) from None

    def unique_name(self, max_length: int = 63, prefix: str = "") -> str:
        """A name for the attempt's job that is the same in every call that starts it, and no other's.

        With it ``create`` finds the job that an earlier call started. Of ``a-z0-9-``, begins with a letter
        unless ``prefix`` says otherwise, and ends with a digest of all that identifies the attempt.

        Args:
            max_length: Of the whole name, prefix included.
            prefix: Put before it as it is.

        Raises:
            ConfigError: not even the digest fits ``max_length``.
            BadTaskSpecificationError: neither metadata nor an output prefix tell attempts apart.
        """
        room = max_length - len(prefix)
        if room < _MIN_NAME_CHARS:
            raise ConfigError("max_length", f"must be at least {_MIN_NAME_CHARS} and the prefix, is {max_length}")
        readable, identity = self._identity()
        digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:_DIGEST_CHARS]
        words = _NOT_IN_NAMES.sub("-", readable.lower()).strip("-")[: room - _MIN_NAME_CHARS].strip("-")
        name = f"{words}-{digest}" if words else f"j{digest}"
        if not prefix and not name[0].isalpha():
            name = f"j{digest}"
        return prefix + name

    def _identity(self) -> tuple[str, Sequence[str]]:
        """Something readable, and all that tells the attempt from every other one."""
        if self.metadata is not None and self.metadata.HasField("task_execution_id"):
            id_ = self.metadata.task_execution_id
            run = id_.node_execution_id.execution_id
            attempt = str(id_.retry_attempt)
            launch = self.metadata.annotations.get(IDEMPOTENCY_ANNOTATION, "")
            parts = (run.org, run.project, run.domain, run.name, id_.node_execution_id.node_id, attempt, launch)
            if run.name and id_.node_execution_id.node_id:
                return f"{run.name}-{id_.node_execution_id.node_id}-{attempt}", parts
        if self.output_prefix:
            return self.template.id.name, ("", self.output_prefix)
        problem = "can not be told from other attempts: the request has neither task_execution_id nor output_prefix"
        raise BadTaskSpecificationError(f"task '{self.template.id.name}' ({self.template.type}) {problem}")


class JobContext(msgspec.Struct, frozen=True):
    """What comes along when a job is looked at or deleted.

    Attributes:
        output_prefix: As in ``TaskRequest``; empty when the caller does not say.
    """

    output_prefix: str = ""
    connection: Connection = Connection()


class MetricsQuery(msgspec.Struct, frozen=True):
    """Which measurements of a job are wanted.

    Attributes:
        queries: Names, as the service knows them; all when empty.
        step_s: Between two points of a series, seconds; 0 leaves it to the connector.
    """

    queries: Sequence[str] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    step_s: float = 0.0


class LogsQuery(msgspec.Struct, frozen=True):
    """Which lines of a job's log are wanted.

    Attributes:
        lines: At most so many; 0 sets no limit.
        token: ``LogPage.next_token`` of the page before; empty for the first one.
    """

    lines: int = 0
    token: str = ""


def _with_integers(value: Any) -> Any:
    """Numbers without a fraction as integers: msgspec takes an integer for a float, but not the reverse."""
    match value:
        case dict():
            return {key: _with_integers(item) for key, item in value.items()}
        case list():
            return [_with_integers(item) for item in value]
        case float() if value.is_integer() and abs(value) <= _EXACT:
            return int(value)
        case _:
            return value
