"""The plugins of the simulated tasks, which misbehave as the seed says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import anyio
import msgspec

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import CoreContext, PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.core_plugin import CoreProperties
from propfan.pluginmachinery.errors import TransientError
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject, Properties
from propfan.pluginmachinery.phases import Phase, PhaseInfo, Transition
from tests.simulation.life import Life
from tests.simulation.nodes import NODE, Service
from tests.simulation.plan import CODES, Result

T = TypeVar("T")


class _Status(msgspec.Struct):
    phase: str = "Pending"
    reason: str = ""
    message: str = ""


class _Pod(msgspec.Struct):
    status: _Status = msgspec.field(default_factory=_Status)


_decode_pod: Final = msgspec.json.Decoder(_Pod).decode
_MOST_FAULTS: Final = 5


class Moods:
    """Faults of plugins in one life."""

    def __init__(self, life: Life) -> None:
        self._life: Final = life
        self._faults = 0

    async def act(self, name: str, action: Callable[[], Awaitable[T]]) -> T:
        life = self._life
        result = await life.call(name, action)
        if not life.is_troubled or not life.dice.chance(
            life.faults.plugin_fault, "mood", life.number, name, self._faults
        ):
            return result
        self._faults += 1
        if self._faults > _MOST_FAULTS:
            return result
        fault = life.dice.pick(_FAULTS, "fault", life.number, name, self._faults)
        life.tell(f"plugin: {name} {fault}")
        if fault == "hangs":
            await anyio.sleep_forever()
        if fault == "raises":
            raise ValueError("simulated")
        if fault == "raises something odd":
            raise KeyError
        if fault == "asks for patience":
            raise TransientError("Busy", "simulated", retry_after_s=3.0)
        nonsense: Any = _NONSENSE[fault]
        return nonsense  # type: ignore[no-any-return]


_NONSENSE: Final[Mapping[str, Any]] = {
    "answers nothing": None,
    "answers a text": "RUNNING",
    "answers a version that is none": PhaseInfo(Phase.RUNNING, version=None),  # type: ignore[arg-type]
    "answers a reason that is none": PhaseInfo(Phase.QUEUED, reason=7),  # type: ignore[arg-type]
    "answers a phase that is none": PhaseInfo("running"),  # type: ignore[arg-type]
    "answers logs that are none": PhaseInfo(Phase.RUNNING, 3, info=phases.TaskInfo(logs=("log", object()))),  # type: ignore[arg-type]
    "answers times without a zone": PhaseInfo(Phase.RUNNING, 4, recheck_at=datetime(2026, 1, 2)),  # noqa: DTZ001
}
_FAULTS: Final = ("hangs", "raises", "raises something odd", "asks for patience", *_NONSENSE)


class PodPlugin:
    """Runs a task as one pod on the simulated node."""

    def __init__(self, life: Life) -> None:
        self._life: Final = life
        self._moods: Final = Moods(life)

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> Mapping[str, Any]:
        return {"apiVersion": "v1", "kind": "Pod"}

    async def build_resource(self, ctx: TaskContext) -> Mapping[str, Any]:
        name = ctx.metadata.task_execution_id.generated_name

        async def build() -> Mapping[str, Any]:
            return {
                "apiVersion": "v1",
                "kind": "Pod",
                "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "sim"}]},
            }

        return await self._moods.act(f"build {name}", build)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        name = resource.metadata.name

        async def look() -> PhaseInfo:
            return self._phase(ctx, resource)

        return await self._moods.act(f"look at {name}", look)

    def _phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        life, now = self._life, ctx.now
        status = _decode_pod(resource.raw).status
        what = (life.number, resource.metadata.name, resource.metadata.resource_version)
        if life.is_troubled and life.dice.chance(life.faults.plugin_undefined, "undefined", *what, ctx.now):
            return phases.UNDEFINED.rechecked_at(now + timedelta(seconds=2.0))
        held_until = resource.metadata.creation_timestamp
        if held_until is not None and life.faults.plugin_hold_s:
            held_until += timedelta(seconds=life.faults.plugin_hold_s)
            if now < held_until and status.phase == "Pending" and not status.reason:
                return phases.queued(now, 0, "held back").rechecked_at(held_until)
        message = f"{status.message} of {resource.metadata.name}"
        match status.phase, status.message:
            case "Pending", "unstartable":
                return phases.failure(status.reason, message, now, cleanup=True)
            case "Pending", "pulling":
                return phases.initializing(now, 0, "pulling")
            case "Pending", _:
                return phases.queued(now, 0, "not scheduled")
            case "Running", _:
                return phases.running(now, 1)
            case "Succeeded", _:
                return phases.success(now)
            case _, "system":
                return phases.system_retryable_failure(status.reason, message, now)
            case _, "fatal":
                return phases.failure(status.reason, message, now)
            case _:
                return phases.retryable_failure(status.reason, message, now)

    def get_properties(self) -> Properties:
        return Properties()

    def is_terminal(self, resource: ObservedObject) -> bool:
        return _decode_pod(resource.raw).status.phase in ("Succeeded", "Failed")

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return None


class CorePlugin:
    """Runs a task at the simulated service."""

    def __init__(self, life: Life, service: Service) -> None:
        self._life: Final = life
        self._service: Final = service
        self._moods: Final = Moods(life)

    async def handle(self, ctx: CoreContext) -> Transition:
        name = ctx.metadata.task_execution_id.generated_name
        life, service = self._life, self._service
        if not ctx.state:
            await life.call(f"begin {name}", lambda: service.begin(name))
            ctx.put_state(1, name.encode())
            return Transition(phases.queued(ctx.now, 0, "handed over"))
        result: Any = await self._moods.act(f"ask for {name}", lambda: service.look(name))
        if result is None or isinstance(result, Result):
            return Transition(_verdict(result, name, ctx.now))
        return Transition(result) if isinstance(result, PhaseInfo) else result

    async def abort(self, ctx: CoreContext) -> None:
        name = ctx.metadata.task_execution_id.generated_name
        await self._life.call(f"stop {name}", lambda: self._service.stop(name))

    async def finalize(self, ctx: CoreContext) -> None:
        name = ctx.metadata.task_execution_id.generated_name
        await self._life.call(f"finalize {name}", lambda: self._service.stop(name))

    def get_properties(self) -> CoreProperties:
        return CoreProperties()


def _verdict(result: Result | None, name: str, now: datetime) -> PhaseInfo:
    match result:
        case None:
            return phases.running(now, 0).rechecked_at(now + timedelta(seconds=5))
        case Result.SUCCESS:
            return phases.success(now)
        case Result.SYSTEM:
            return phases.system_retryable_failure(CODES[result], f"system of {name}", now)
        case Result.FATAL:
            return phases.failure(CODES[result], f"fatal of {name}", now)
        case _:
            return phases.retryable_failure(CODES[result], f"failure of {name}", now)
