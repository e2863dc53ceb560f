"""Why a task of a cluster is where it is: from its TaskAction, its objects, their pods, and what Events say of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

import anyio
import msgspec

from propfan.engine import submission
from propfan.engine.api import Explanation
from propfan.engine.cluster import EVENT, POD, TASK_ACTION, Cluster, Kind, ObservedObject
from propfan.engine.kubernetes import objects
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Stage
from propfan.pluginmachinery.errors import ApiError, ConfigError, ForbiddenError, NotFoundError
from propfan.pluginmachinery.names import sanitize_label_value
from propfan.pluginmachinery.phases import ZERO_TIME, Phase
from propfan.pluginmachinery.taskaction import MANAGED_LABEL

_EVENTS_SHOWN: Final = 8
_PODS_SHOWN: Final = 5
_QUIET: Final = frozenset({"", "ContainerCreating", "PodInitializing"})
"""Reasons of waiting containers that are no trouble."""


class Server(Cluster, Protocol):
    """A cluster that also answers what no other call asks for."""

    async def get_raw(self, path: str) -> bytes: ...


class _PodCondition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Waiting(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""


class _ContainerState(msgspec.Struct, frozen=True):
    waiting: _Waiting | None = None


class _Container(msgspec.Struct, frozen=True):
    name: str = ""
    state: _ContainerState = _ContainerState()


class _PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    phase: str = ""
    reason: str = ""
    message: str = ""
    conditions: Sequence[_PodCondition] = ()
    init_container_statuses: Sequence[_Container] = ()
    container_statuses: Sequence[_Container] = ()


class _Pod(msgspec.Struct, frozen=True):
    status: _PodStatus = _PodStatus()


class _ObjectStatus(msgspec.Struct, frozen=True):
    status: Mapping[str, Any] = {}


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    metadata: Mapping[str, Any] = {}
    type: str = ""
    reason: str = ""
    note: str = ""
    event_time: datetime | None = None
    deprecated_last_timestamp: datetime | None = None


class _Events(msgspec.Struct, frozen=True):
    items: Sequence[_Event] = ()


async def find(cluster: Cluster, name: str, namespaces: Collection[str]) -> ObservedObject:
    """The TaskAction by its name, ``namespace/name``, or the only beginning that fits.

    Raises:
        ConfigError: none or several are meant.
    """
    namespace, _, short = name.rpartition("/")
    places = [namespace] if namespace else sorted(namespaces)
    for place in places:
        try:
            return await cluster.get(TASK_ACTION, place, short)
        except NotFoundError:
            continue
    found: list[ObservedObject] = []
    for place in places or [""]:
        token = ""
        while True:
            page = await cluster.list(TASK_ACTION, namespace=place, continue_token=token)
            found += [seen for seen in page.items if seen.metadata.name.startswith(short)]
            token = page.continue_token
            if not token:
                break
    matches = [seen for seen in found if seen.metadata.name == short] or found
    if len(matches) == 1:
        return matches[0]
    where = f"in namespace {', '.join(places)}" if places else "in any namespace"
    if not matches:
        raise ConfigError("TASK", f"there is no TaskAction '{name}' {where}")
    listed = ", ".join(f"{seen.metadata.namespace}/{seen.metadata.name}" for seen in matches[:5])
    raise ConfigError("TASK", f"'{name}' could be {len(matches)} TaskActions: {listed}")


async def explain(cluster: Server, action: ObservedObject, kinds: Collection[Kind]) -> Explanation:
    """What keeps the task from going on, in the words of who does.

    Args:
        kinds: Of the objects that tasks may run as.
    """
    status = submission.status_of(action)
    made = await _made(cluster, status, {*kinds, POD})
    pods = [seen for seen in made.found if seen.kind == POD]
    troubles = [text for pod in pods for text in troubles_of(pod)]
    others = [seen for seen in made.found if seen.kind != POD]
    events = await _events(cluster, [action, *others, *pods[:_PODS_SHOWN]])
    details = [*made.problems, *map(_described, others), *map(_described, pods[:_PODS_SHOWN])]
    if len(pods) > _PODS_SHOWN:
        details.append(f"and {len(pods) - _PODS_SHOWN} more pods")
    is_over = status.outcome is not None
    return Explanation(
        status=status,
        stage=Stage.ENDED.value if is_over else "",
        goal="none",
        waiting_for="" if is_over else _waiting_for(status, troubles, others, pods),
        object=str(made.found[0]) if made.found else "",
        observed_at=None,
        next_wake=None,
        next_wake_reason="",
        is_durable=True,
        attempt_errors=submission.attempt_errors_of(action),
        details=(*details, *events),
    )


def _waiting_for(
    status: TaskStatus, troubles: Sequence[str], others: Sequence[ObservedObject], pods: Sequence[ObservedObject]
) -> str:
    if troubles:
        return "; ".join(dict.fromkeys(troubles))
    if status.phase is Phase.UNDEFINED and not status.history:
        return "an engine: none has looked at it yet; does 'propfan serve' run for this namespace?"
    if status.phase is Phase.RUNNING:
        return ""
    if others and not pods and status.phase in (Phase.QUEUED, Phase.INITIALIZING):
        return f"the operator of {others[0].kind.kind}: there are no pods yet ({status.reason})"
    return status.reason


def troubles_of(pod: ObservedObject) -> Sequence[str]:
    """Why a pod does not run, in the words of scheduler and kubelet; nothing when it is on its way."""
    try:
        status = msgspec.json.decode(pod.raw, type=_Pod).status
    except msgspec.DecodeError:
        return ()
    if status.phase not in ("", "Pending", "Running"):
        return ()
    found = [
        f"the scheduler: {each.reason}: {each.message}"
        for each in status.conditions
        if each.type == "PodScheduled" and each.status == "False"
    ]
    for container in (*status.init_container_statuses, *status.container_statuses):
        waiting = container.state.waiting
        if waiting is not None and waiting.reason not in _QUIET:
            found.append(f"container {container.name}: {waiting.reason}: {waiting.message}".rstrip(": "))
    return [f"{text} (pod {pod.metadata.name})" for text in found]


class _Made(msgspec.Struct):
    found: list[ObservedObject]
    problems: list[str]


async def _made(cluster: Cluster, status: TaskStatus, kinds: Collection[Kind]) -> _Made:
    """What bears the labels of the task, its operators' objects before pods, the latest first."""
    labels = {
        MANAGED_LABEL: "true",
        "run": sanitize_label_value(status.run_name),
        "action": sanitize_label_value(status.action_name),
    }
    made = _Made([], [])

    async def look(kind: Kind) -> None:
        try:
            page = await cluster.list(kind, namespace=status.key.namespace, labels=labels)
        except NotFoundError:
            return  # the cluster has no such kind
        except ApiError as error:
            what = "may not be listed" if isinstance(error, ForbiddenError) else "can not be listed"
            made.problems.append(f"{kind} {what}: {error.problem}")
            return
        made.found += page.items

    async with anyio.create_task_group() as tasks:
        for kind in kinds:
            tasks.start_soon(look, kind)
    made.found.sort(key=lambda seen: (seen.metadata.creation_timestamp or ZERO_TIME, seen.metadata.name), reverse=True)
    made.found.sort(key=lambda seen: seen.kind == POD)
    return made


def _described(seen: ObservedObject) -> str:
    try:
        status = msgspec.json.decode(seen.raw, type=_ObjectStatus).status
    except msgspec.DecodeError:
        status = {}
    said = [
        f"{name} {status[name]}"
        for name in ("phase", "jobDeploymentStatus", "jobStatus", "reason", "message")
        if isinstance(status.get(name), str) and status[name]
    ]
    state = status.get("applicationState")
    if isinstance(state, dict) and state.get("state"):
        said.append(f"state {state['state']} {state.get('errorMessage', '')}".rstrip())
    conditions = status.get("conditions")
    if not said and isinstance(conditions, list) and conditions and isinstance(conditions[-1], dict):
        last = conditions[-1]
        said.append(
            f"{last.get('type')}={last.get('status')} {last.get('reason', '')} {last.get('message', '')}".strip()
        )
    return f"{seen}: {', '.join(said) or 'no status yet'}"


async def _events(cluster: Server, seen: Sequence[ObservedObject]) -> Sequence[str]:
    """The latest of each, oldest first; warnings are marked."""
    found: list[tuple[datetime, str]] = []
    for each in seen:
        meta = each.metadata
        query = {"fieldSelector": f"regarding.kind={each.kind.kind},regarding.name={meta.name}", "limit": "500"}
        path = objects.with_query(objects.collection(EVENT, meta.namespace), query)
        try:
            told = msgspec.json.decode(await cluster.get_raw(path), type=_Events).items
        except ApiError as error:
            return [f"Events can not be read: {error.problem}"]
        except msgspec.DecodeError:
            continue
        for event in told:
            when = event.event_time or event.deprecated_last_timestamp
            if when is not None:
                mark = "warning: " if event.type == "Warning" else ""
                found.append((when, f"{when:%H:%M:%S} {mark}{event.reason}: {event.note} ({each})"))
    return [text for _, text in sorted(found)[-_EVENTS_SHOWN:]]
