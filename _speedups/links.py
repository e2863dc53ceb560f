"""Log links of one task, taken apart once and filled for each pod.

By definition (``propfan.pluginmachinery.loglinks``) the variables of a template are replaced one after
another in the text as it is by then, so that a value can bring placeholders of later variables with it. As
long as no brace comes from a value, that is the same as filling places found beforehand, which is done here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from propfan._speedups import pod_layout
from propfan._speedups.pods import ObservedPod

pod_layout.check()

VARIABLES: Final = (
    "logName", "podName", "podUID", "namespace", "containerName", "containerID", "hostname", "agentID", "connectorID",
    "nodeID", "generatedName", "taskRetryAttempt", "taskID", "taskVersion", "taskOrg", "taskProject", "taskDomain",
    "executionName", "runName", "actionName", "executionProject", "executionDomain", "executionOrg",
    "podRFC3339StartTime", "podRFC3339FinishTime", "podUnixStartTime", "podUnixFinishTime",
)  # fmt: skip
"""In the order in which they are substituted. A variable's slot is its index here."""

COUNT: Final = len(VARIABLES)
ALL: Final = (1 << COUNT) - 1
"""A set of slots is written as the bits of an integer; this one holds all."""

LOG_NAME: Final = 0
POD_NAME: Final = 1
POD_UID: Final = 2
NAMESPACE: Final = 3
CONTAINER_NAME: Final = 4
CONTAINER_ID: Final = 5
HOSTNAME: Final = 6
AGENT_ID: Final = 7
CONNECTOR_ID: Final = 8
NODE_ID: Final = 9
GENERATED_NAME: Final = 10
RETRY_ATTEMPT: Final = 11
TASK_ID: Final = 12
EXECUTION_NAME: Final = 17
START_TIME: Final = 23
FINISH_TIME: Final = 24
UNIX_START_TIME: Final = 25
UNIX_FINISH_TIME: Final = 26

_CONTAINER: Final = 1 << CONTAINER_ID
_GENERATED: Final = 1 << GENERATED_NAME
_IDENTITY: Final = 0b11111111111111 << NODE_ID
_TASK: Final = 0b11111 << TASK_ID
_EXECUTION: Final = 0b111111 << EXECUTION_NAME
_TIMES: Final = 0b1111 << START_TIME

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Template:
    """A text with gaps: ``literals`` has one element more than ``slots``, and each gap lies between two.

    An empty value leaves the gap's placeholder where it was.
    """

    def __init__(self, literals: Sequence[str], slots: Sequence[int], placeholders: Sequence[str]) -> None:
        self._first = literals[0]
        self._gaps = tuple(zip(slots, placeholders, literals[1:], strict=True))

    def fill(self, values: list[str]) -> str:
        """The text with ``values[slot]`` in each gap."""
        if not self._gaps:
            return self._first
        parts = [self._first]
        for slot, placeholder, literal in self._gaps:
            value = values[slot]
            parts.append(value or placeholder)
            parts.append(literal)
        return "".join(parts)


class PlainLink:
    """One link. The log's name is appended to ``name``; ``encode`` makes what is appended to ``uri``."""

    def __init__(
        self,
        uri: Template,
        name: Template,
        details: tuple[Any, ...],
        *,
        query: Template | None = None,
        encode: Callable[[str], str] | None = None,
        only_with_debugger: bool = False,
    ) -> None:
        self.uri = uri
        self.name = name
        self.details = details
        self.query = query
        self.encode = encode
        self.only_with_debugger = only_with_debugger


class PlainLinks:
    """All links of one task. ``used`` are the slots that any of them fills."""

    def __init__(self, links: Sequence[PlainLink], used: Sequence[int], make: Callable[..., Any]) -> None:
        self._links = tuple(links)
        self._used = tuple(used)
        self._make = make

    def render(self, values: list[str], has_debugger: bool) -> tuple[Any, ...] | None:  # noqa: FBT001 - C signature
        """What ``make(uri, name, *details)`` gives for each; ``None`` when a value brings a brace with it."""
        for slot in self._used:
            if "{" in values[slot]:
                return None
        log_name = values[LOG_NAME]
        rendered = []
        for link in self._links:
            if link.only_with_debugger and not has_debugger:
                continue
            uri = link.uri.fill(values)
            if link.query is not None and link.encode is not None:
                uri += link.encode(link.query.fill(values))
            name = link.name.fill(values)
            rendered.append(self._make(uri, name + log_name if log_name else name, *link.details))
        return tuple(rendered)


def rfc3339(when: datetime | None) -> str:
    """Whole seconds in UTC, as ``time.RFC3339`` of Go prints them; an unset time is year 1.

    A time that UTC puts before the year 1 or after 9999 is that end of the calendar.
    """
    moment = when or _NEVER
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        moment = _NEVER if moment.year == 1 else _LAST
    return moment.isoformat(timespec="seconds")[:-6] + "Z"


def unix_seconds(when: datetime | None) -> int:
    """Seconds since 1970, rounded down; an unset time is year 1."""
    return ((when or _NEVER) - _EPOCH) // _SECOND


def bare_container_id(container_id: str) -> str:
    """What follows the runtime's scheme in a container status: ``a://b`` gives ``b``."""
    pieces = container_id.split("://")
    return pieces[1] if len(pieces) > 1 else container_id


def pod_values(pod: ObservedPod, index: int, used: int, now: datetime) -> list[str] | None:
    """Values of the slots in ``used`` that describe a container of an observed pod.

    ``None`` when the pod has no container, or no container status, of that index: the status is taken by its
    position, also where it belongs to another container.
    """
    spec, status = pod.spec, pod.status
    if spec is None or status is None:
        return None
    containers, statuses = spec.containers, status.container_statuses
    if containers is None or statuses is None or index >= len(containers) or index >= len(statuses):
        return None
    metadata = pod.metadata
    container_id = bare_container_id(statuses[index].container_id) if used & _CONTAINER else ""
    values = [
        "", metadata.name, metadata.uid, metadata.namespace, containers[index].name, container_id, spec.hostname,
        "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "", "",
    ]  # fmt: skip
    if used & _TIMES:
        created = metadata.creation_timestamp
        values[START_TIME] = rfc3339(created)
        values[FINISH_TIME] = rfc3339(now)
        values[UNIX_START_TIME] = str(unix_seconds(created))
        values[UNIX_FINISH_TIME] = str(unix_seconds(now))
    return values


def add_identity(values: list[str], used: int, task_execution_id: Any, subdomain: Callable[[str], str]) -> None:
    """Sets the slots in ``used`` that say which attempt of which task it is; absent parts stay empty."""
    if not used & _IDENTITY or task_execution_id is None:
        return
    values[NODE_ID] = task_execution_id.unique_node_id
    if used & _GENERATED:
        values[GENERATED_NAME] = subdomain(task_execution_id.generated_name)
    identifier = task_execution_id.id
    values[RETRY_ATTEMPT] = str(identifier.retry_attempt)
    task = identifier.task_id
    if used & _TASK and task is not None:
        values[TASK_ID : TASK_ID + 5] = [task.name, task.version, task.org, task.project, task.domain]
    node = identifier.node_execution_id
    if used & _EXECUTION and node is not None and node.execution_id is not None:
        run = node.execution_id
        values[EXECUTION_NAME : EXECUTION_NAME + 6] = [
            run.name, run.name, node.node_id, run.project, run.domain, run.org
        ]  # fmt: skip
