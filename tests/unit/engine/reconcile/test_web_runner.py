"""What becomes of a web API plugin's answers, hangs and errors, in a whole engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from flyteidl2.core import types_pb2

from propfan.engine import Engine, EngineConfig, Submission
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.engine.web import jobs
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.errors import (
    BadTaskSpecificationError,
    PermanentError,
    StorageError,
    TaskError,
    TransientError,
    UnansweredError,
)
from propfan.pluginmachinery.phases import Phase, PhaseInfo
from propfan.pluginmachinery.registry import Registry, WebPluginEntry
from propfan.pluginmachinery.testing import NOW, task_template
from propfan.pluginmachinery.web_plugin import (
    Caching,
    CreatedResource,
    Discovery,
    Pace,
    RateLimit,
    ResourceDemand,
    WebContext,
    WebPluginConfig,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

CONFIG = WebPluginConfig(
    read_rate_limiter=RateLimit(10_000, 10_000),
    write_rate_limiter=RateLimit(10_000, 10_000),
    caching=Caching(resync_interval=Duration.parse("5s"), max_system_failures=1),
)
TEMPLATE = task_template("web")


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_FIRST_LOOK_S", 0.02)


class Plugin:
    """Does what a test puts in: each script is called in turn, and its last one for ever. Errors are raised."""

    def __init__(self, **scripts: Any) -> None:
        self.scripts: dict[str, list[Any]] = {"create": [CreatedResource(b"m")], "get": ["done"], "delete": [None]}
        self.scripts |= {name: script if isinstance(script, list) else [script] for name, script in scripts.items()}
        self.calls: list[str] = []
        self.keys: list[str] = []
        self.verdicts: dict[Any, Any] = {
            "going": phases.running(NOW, 0),
            "done": phases.success(NOW),
            "failed": phases.retryable_failure("Lost", "spot", NOW),
        }

    async def _next(self, name: str) -> Any:
        self.calls.append(name)
        script = self.scripts[name]
        step = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(step, Exception):
            raise step
        return await step() if callable(step) else step

    def get_config(self) -> WebPluginConfig:
        return CONFIG

    async def resource_requirements(self, ctx: TaskContext) -> ResourceDemand:
        return ResourceDemand("default")

    async def create(self, ctx: WebContext) -> CreatedResource:
        self.keys.append(ctx.idempotency_key)
        created: CreatedResource = await self._next("create")
        return created

    async def get(self, meta: bytes) -> Any:
        return await self._next("get")

    async def delete(self, meta: bytes, reason: str) -> None:
        await self._next("delete")

    async def status(self, ctx: TaskContext, meta: bytes, resource: Any) -> PhaseInfo:
        if "status" in self.scripts:
            answer: PhaseInfo = await self._next("status")
            return answer
        verdict: PhaseInfo = self.verdicts[resource]
        return verdict


class SyncPlugin:
    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.keys: list[str] = []

    def get_config(self) -> WebPluginConfig:
        return CONFIG

    async def do(self, ctx: WebContext) -> PhaseInfo:
        self.keys.append(ctx.idempotency_key)
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, Exception):
            raise step
        answer: PhaseInfo = await step() if callable(step) else step
        return answer


def engine_of(plugin: Any, folder: Path | None = None, *, limit_s: float = 10.0, **entry: Any) -> Engine:
    registry = Registry()
    registry.register(WebPluginEntry(id="web", **{"task_types": ("web",), "load": plugin, **entry}))
    return Engine(EngineConfig(data_dir=folder, plugin_timeout_s=limit_s, status_linger_s=0.0), registry=registry)


async def run(plugin: Any, retries: int = 0, **more: Any) -> TaskStatus:
    made = task_template("web", **{key: more.pop(key) for key in ("outputs",) if key in more})
    made.metadata.retries.retries = retries
    with anyio.fail_after(20):
        async with engine_of(plugin, **more) as engine:
            status = await engine.wait(await engine.submit(Submission(template=made.SerializeToString())))
            await engine.settled()
    return status


def message_of(status: TaskStatus) -> str:
    assert status.error is not None
    return f"[{status.error.code}] {status.error.message}"


# -- Creation --------------------------------------------------------------------------------------


async def test_job_that_is_told_to_be_over_at_once_is_never_looked_at() -> None:
    plugin = Plugin(create=CreatedResource(b"m", "done"))
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert plugin.calls == ["create"]


async def test_job_that_is_told_to_go_on_is_looked_at() -> None:
    plugin = Plugin(create=CreatedResource(b"m", "going"))
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert plugin.calls == ["create", "get"]


async def test_meta_may_be_empty() -> None:
    plugin = Plugin(create=CreatedResource(b""), get="going")
    with anyio.fail_after(20):
        async with engine_of(plugin) as engine:
            key = await engine.submit(Submission(template=TEMPLATE.SerializeToString()))
            while "get" not in plugin.calls:  # noqa: ASYNC110 - nobody tells of it
                await anyio.sleep(0.01)
            await engine.abort(key)
            await engine.settled()
    assert plugin.calls[-1] == "delete"


@pytest.mark.parametrize(
    ("error", "creations"),
    [
        (TransientError("Down", "no route"), 2),
        (UnansweredError("Slow", "no answer"), 2),
        (StorageError("s3://b/inputs.pb", "503"), 2),
        (TimeoutError("no answer"), 2),
    ],
    ids=lambda it: type(it).__name__,
)
async def test_creation_is_repeated_under_its_key_when_its_outcome_is_not_known(
    error: Exception, creations: int
) -> None:
    plugin = Plugin(create=[error, CreatedResource(b"m")])
    status = await run(plugin)
    assert (status.outcome, status.attempts, len(plugin.keys), len(set(plugin.keys))) == (
        Outcome.COMPLETED,
        1,
        creations,
        1,
    )


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TaskError("Quota", "vendor says no"), "Quota"),
        (RuntimeError("boom"), "TaskFailedWithError"),
    ],
    ids=["TaskError", "RuntimeError"],
)
async def test_any_other_error_costs_the_attempt_and_the_next_has_another_key(error: Exception, code: str) -> None:
    plugin = Plugin(create=[error, CreatedResource(b"m")])
    assert (await run(plugin, retries=1)).outcome is Outcome.COMPLETED
    assert len(set(plugin.keys)) == 2
    assert "delete" not in plugin.calls
    assert message_of(await run(Plugin(create=error))).startswith(f"[{code}]")


@pytest.mark.parametrize(
    "error", [PermanentError("Never", "unknown table"), BadTaskSpecificationError("no columns")], ids=["its own", "bad"]
)
async def test_permanent_error_fails_the_task_whatever_its_retries(error: TaskError) -> None:
    plugin = Plugin(create=error)
    status = await run(plugin, retries=5)
    assert (status.outcome, message_of(status)) == (Outcome.FAILED, f"[{error.code}] {error.message}")
    assert plugin.calls == ["create"]


@pytest.mark.parametrize("answer", [None, b"meta", CreatedResource("text")])  # type: ignore[arg-type]
async def test_wrong_answer_of_a_creation_names_the_plugin(answer: Any) -> None:
    assert "the answer of plugin 'web': is a" in message_of(await run(Plugin(create=answer)))


async def test_hanging_creation_is_cancelled_and_holds_up_nobody() -> None:
    plugin = Plugin(create=[anyio.sleep_forever, CreatedResource(b"m")])
    status = await run(plugin, limit_s=0.2)
    assert (status.outcome, len(set(plugin.keys)), len(plugin.keys)) == (Outcome.COMPLETED, 1, 2)


# -- Looks -----------------------------------------------------------------------------------------


async def test_looks_that_bring_nothing_new_call_for_no_verdict() -> None:
    plugin = Plugin(get=["going", "going", "going", "done"])
    judged: list[Any] = []
    status_of = plugin.status

    async def status(ctx: TaskContext, meta: bytes, resource: Any) -> PhaseInfo:
        judged.append(resource)
        return await status_of(ctx, meta, resource)

    plugin.status = status  # type: ignore[method-assign]
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert (judged, plugin.calls.count("get")) == (["going", "done"], 4)


@pytest.mark.parametrize(
    "error", [TransientError("Down", "no route"), TaskError("Odd", "no phase"), ValueError("boom"), TimeoutError()]
)
async def test_failed_looks_are_counted_in_a_row(error: Exception) -> None:
    plugin = Plugin(get=[error, "going", error, "done"])
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    failed = Plugin(get=error)
    status = await run(failed)
    assert message_of(status).startswith("[AutoRefreshCacheFailed] 2 looks at the job in a row failed, the last: ")
    assert failed.calls == ["create", "get", "get", "delete"]


async def test_service_that_says_when_to_come_back_is_not_counted() -> None:
    plugin = Plugin(get=[*[TransientError("Throttled", "slow down", 0.01)] * 3, "done"])

    def pace(ctx: TaskContext) -> Pace:
        return Pace("one", Duration.parse("20ms"))

    plugin.pace = pace  # type: ignore[attr-defined]
    assert (await run(plugin)).outcome is Outcome.COMPLETED


async def test_look_that_can_not_succeed_fails_the_task_at_once() -> None:
    plugin = Plugin(get=PermanentError("Gone", "no such job"))
    assert message_of(await run(plugin, retries=3)) == "[Gone] no such job"
    assert plugin.calls == ["create", "get", "delete"]


@pytest.mark.parametrize("error", [ValueError("boom"), TaskError("SystemError", "unknown")])
async def test_status_that_raises_is_a_failed_look(error: Exception) -> None:
    plugin = Plugin(status=[error, phases.success(NOW)])
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert message_of(await run(Plugin(status=error))).startswith("[AutoRefreshCacheFailed]")


async def test_outputs_that_can_not_be_written_now_are_written_later_from_the_same_look() -> None:
    plugin = Plugin(status=[StorageError("s3://b/outputs.pb", "503"), phases.success(NOW)])
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert plugin.calls == ["create", "get", "status", "status"]


async def test_verdict_that_is_none_is_a_failed_look() -> None:
    assert "the answer of plugin 'web'" in message_of(await run(Plugin(status="RUNNING")))


async def test_success_needs_the_declared_outputs() -> None:
    status = await run(Plugin(), outputs={"o0": types_pb2.INTEGER})
    assert message_of(status).startswith("[OutputsNotFound] the job succeeded and left no outputs")


async def test_hanging_look_is_cancelled_and_counted() -> None:
    plugin = Plugin(get=[anyio.sleep_forever, "done"])
    assert (await run(plugin, limit_s=0.2)).outcome is Outcome.COMPLETED
    assert plugin.calls == ["create", "get", "get"]


async def test_task_says_that_looks_fail_and_takes_it_back_when_they_do_not() -> None:
    go_on = anyio.Event()

    async def wait() -> str:
        await go_on.wait()
        return "going"

    plugin = Plugin(get=["going", *[TransientError("Down", "no route")] * 2, wait, "going"])
    plugin.get_config = lambda: CONFIG_WITH_PATIENCE  # type: ignore[method-assign]
    with anyio.fail_after(20):
        async with engine_of(plugin) as engine:
            key = await engine.submit(Submission(template=TEMPLATE.SerializeToString()))
            await until(lambda: "no route" in engine.waiting().get(key, ""))
            assert (await engine.get(key)).phase is Phase.RUNNING
            go_on.set()
            await until(lambda: not engine.waiting().get(key, ""))


CONFIG_WITH_PATIENCE = WebPluginConfig(
    caching=Caching(resync_interval=Duration.parse("5s"), max_system_failures=9),
)


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - nobody tells of it
        await anyio.sleep(0.01)


# -- Deletion --------------------------------------------------------------------------------------


async def test_retried_attempt_has_no_job_left_before_the_next_begins() -> None:
    plugin = Plugin(get=["going", PermanentError("Gone", "no such job")])
    await run(plugin)
    assert plugin.calls[-1] == "delete"
    failed = Plugin(get=["failed", "done"])
    assert (await run(failed, retries=1)).outcome is Outcome.COMPLETED
    assert failed.calls == ["create", "get", "create", "get"], "a job that has ended needs no deletion"


async def test_job_that_can_never_be_deleted_is_left_alone() -> None:
    plugin = Plugin(get=PermanentError("Gone", "no such job"), delete=PermanentError("", "no right"))
    assert (await run(plugin)).outcome is Outcome.FAILED
    assert plugin.calls.count("delete") == 1


async def test_task_that_vanishes_takes_its_job_along() -> None:
    plugin = Plugin(get="going")
    async with EmbeddedCluster.open() as cluster:
        registry = Registry()
        registry.register(WebPluginEntry(id="web", task_types=("web",), load=plugin))
        with anyio.fail_after(20):
            async with Engine(EngineConfig(), cluster=cluster, registry=registry) as engine:
                key = await engine.submit(Submission(template=TEMPLATE.SerializeToString()))
                await until(lambda: "get" in plugin.calls)
                await cluster.patch(TASK_ACTION, *key, {"metadata": {"finalizers": None}})
                await cluster.delete(TASK_ACTION, *key)
                await until(lambda: "delete" in plugin.calls)


# -- Synchronous plugins ---------------------------------------------------------------------------


async def test_synchronous_plugin_ends_the_task_in_one_call() -> None:
    plugin = SyncPlugin(phases.success(NOW))
    assert (await run(plugin)).outcome is Outcome.COMPLETED
    assert len(plugin.keys) == 1


async def test_synchronous_plugin_must_end_the_task() -> None:
    assert "a synchronous plugin ends the task" in message_of(await run(SyncPlugin(phases.running(NOW, 0))))


@pytest.mark.parametrize(
    ("first", "calls", "keys"),
    [
        (TransientError("Down", "no route"), 2, 1),
        (phases.retryable_failure("Lost", "spot", NOW), 2, 2),
        (RuntimeError("boom"), 2, 2),
    ],
)
async def test_synchronous_call_is_repeated_like_a_creation(first: Any, calls: int, keys: int) -> None:
    plugin = SyncPlugin(first, phases.success(NOW))
    assert (await run(plugin, retries=1)).outcome is Outcome.COMPLETED
    assert (len(plugin.keys), len(set(plugin.keys))) == (calls, keys)


# -- What plugins may have beside -------------------------------------------------------------------


class DiscoveringPlugin(Plugin):
    """Learns its task types later, and works in the background."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Discovery(unheard=("service 'a'",), has_begun=False)
        self.runs = 0

    def discovered(self) -> Discovery:
        return self.known

    async def run(self) -> None:
        self.runs += 1
        await anyio.sleep_forever()


async def test_task_waits_for_a_type_that_may_yet_be_discovered() -> None:
    plugin = DiscoveringPlugin()
    with anyio.fail_after(20):
        async with engine_of(plugin, task_types=()) as engine:
            key = await engine.submit(Submission(template=TEMPLATE.SerializeToString()))
            await until(lambda: "not heard of yet: service 'a'" in engine.waiting().get(key, ""))
            plugin.known = Discovery(frozenset({"web"}))
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED
    assert plugin.runs == 1


async def test_type_that_nobody_can_discover_any_more_is_refused() -> None:
    plugin = DiscoveringPlugin()
    plugin.known = Discovery(frozenset({"other"}))
    assert (await run(plugin, task_types=())).outcome is Outcome.NO_PLUGIN
