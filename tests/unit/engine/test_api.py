"""What ``docs/embedding.md`` promises to a program."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import anyio
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine import Engine, EngineConfig, Submission
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.forwarding import ForwardingCluster
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_events import ActionPhase, TaskEvent
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.errors import AlreadyExistsError, ConfigError, NotFoundError, PermanentError
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import InMemoryStore, literal_map, task_template
from propfan.plugins.sleep import entry
from tests.unit.engine.cli.command import is_alive

pytestmark = pytest.mark.anyio

SLEEP = task_template("core-sleep", inputs={"duration": types_pb2.DURATION}).SerializeToString()
HOUR, NOTHING = (literal_map(duration=timedelta(hours=hours)).SerializeToString() for hours in (1, 0))


def in_memory(**changes: object) -> Engine:
    """An engine whose only plugin sleeps."""
    registry = Registry()
    registry.register(entry)
    return Engine(EngineConfig(), registry=registry, **changes)  # type: ignore[arg-type]


def shell(script: str, retries: int = 0) -> bytes:
    template = tasks_pb2.TaskTemplate(type="raw-container")
    template.id.name = "shell"
    template.container.image = "busybox"
    template.container.command.extend(["/bin/sh", "-c", script])
    template.metadata.retries.retries = retries
    return template.SerializeToString()


def inputs_in(store: InMemoryStore) -> Sequence[bytes]:
    return [content for path, content in store.objects.items() if path.endswith("/inputs.pb")]


async def begun(engine: Engine, key: TaskKey) -> None:
    async with engine.events(key=key) as events:
        async for _, event in events:
            if event.phase is ActionPhase.RUNNING:
                return


# -- Submitting ------------------------------------------------------------------------------------


async def test_submitting_again_finds_the_task_and_its_first_inputs() -> None:
    store = InMemoryStore()
    with anyio.fail_after(20):
        async with in_memory(store=store) as engine:
            first = Submission(template=SLEEP, inputs=NOTHING, run_name="r1", action_name="a7")
            key = await engine.submit(first)
            assert key == ("default", "r1-a7")
            assert await engine.submit(first) == key
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED
            again = Submission(template=SLEEP, inputs=HOUR, run_name="r1", action_name="a7")
            assert await engine.submit(again) == key
            assert inputs_in(store) == [NOTHING]
            assert len(await engine.list()) == 1


async def test_another_template_under_the_same_name_is_refused_and_changes_nothing() -> None:
    store = InMemoryStore()
    with anyio.fail_after(20):
        async with in_memory(store=store) as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=HOUR, run_name="r1"))
            other = task_template("core-sleep", name="other").SerializeToString()
            with pytest.raises(AlreadyExistsError, match=r"task default/r1-a0: .*choose another run or action name"):
                await engine.submit(Submission(template=other, inputs=NOTHING, run_name="r1"))
            assert inputs_in(store) == [HOUR]
            assert (await engine.get(key)).outcome is None


async def test_many_submissions_of_one_task_at_once_make_one() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            async with anyio.create_task_group() as group:
                for _ in range(20):
                    group.start_soon(engine.submit, Submission(template=SLEEP, inputs=NOTHING, run_name="r1"))
            assert [status.key.name for status in await engine.list()] == ["r1-a0"]


@pytest.mark.parametrize(
    ("bad", "error", "problem"),
    [
        (Submission(template=b"\xff\xff"), PermanentError, "not a serialised core.TaskTemplate"),
        (Submission(template=SLEEP, run_name="Upper"), ConfigError, "run_name: 'Upper-a0'"),
        (Submission(template=SLEEP, run_name="r" * 31), PermanentError, "spec.runName: 31 characters, at most 30"),
        (
            Submission(template=SLEEP, action_name="a" * 31),
            PermanentError,
            "spec.actionName: 31 characters, at most 30",
        ),
        (Submission(template=SLEEP, action_name="a/b"), ConfigError, "run_name"),
        (Submission(template=b"x" * (1024 * 1024 + 1)), PermanentError, "the limit is 1048576"),
    ],
)
async def test_what_could_never_run_is_refused_and_not_created(
    bad: Submission, error: type[Exception], problem: str
) -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            with pytest.raises(error) as caught:
                await engine.submit(bad)
            assert problem in str(caught.value)
            assert await engine.list() == []


# -- Asking ----------------------------------------------------------------------------------------


async def test_what_is_not_there_is_not_found_by_any_call() -> None:
    nobody = TaskKey("default", "nobody-a0")
    with anyio.fail_after(20):
        async with in_memory() as engine:
            for call in (engine.get, engine.wait, engine.explain, engine.abort, engine.delete):
                with pytest.raises(NotFoundError, match="nobody-a0"):
                    await call(nobody)
            with pytest.raises(NotFoundError):
                await engine.signal(nobody, b"", by="me")
            assert await engine.history(nobody) == []
            await engine.settled()


async def test_several_can_wait_for_one_task_and_each_is_told() -> None:
    told: list[Outcome | None] = []
    with anyio.fail_after(20):
        async with in_memory() as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=HOUR))

            async def wait() -> None:
                told.append((await engine.wait(key)).outcome)

            async with anyio.create_task_group() as group:
                for _ in range(5):
                    group.start_soon(wait)
                await begun(engine, key)
                await engine.abort(key, "enough")
    assert told == [Outcome.ABORTED] * 5


async def test_cancelling_a_wait_harms_nobody() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=HOUR))
            with anyio.move_on_after(0.05) as scope:
                await engine.wait(key)
            assert scope.cancelled_caught
            assert (await engine.get(key)).outcome is None
            await engine.abort(key)
            assert (await engine.wait(key)).outcome is Outcome.ABORTED


async def test_events_are_told_in_order_from_any_point_on() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            keys = [await engine.submit(Submission(template=SLEEP, inputs=NOTHING)) for _ in range(3)]
            for key in keys:
                await engine.wait(key)
            total = sum([len(await engine.history(key)) for key in keys])
            numbered: list[tuple[int, TaskEvent]] = []
            async with engine.events() as events:
                async for entry in events:
                    numbered.append(entry)
                    if len(numbered) == total:
                        break
            half = total // 2
            async with engine.events(after=numbered[half - 1][0]) as events:
                assert await anext(events) == numbered[half]
            for key in keys:
                assert [e for _, e in numbered if e.name == key.name] == await engine.history(key)
    assert all(earlier[0] < later[0] for earlier, later in itertools.pairwise(numbered))
    assert all(len({e.key for _, e in numbered if e.name == key.name and e.is_final}) == 1 for key in keys)


async def test_explain_says_what_a_live_task_does_and_what_an_ended_one_did() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=HOUR))
            await begun(engine, key)
            explained = await engine.explain(key)
            assert (explained.stage, explained.goal) == ("Active", "observe")
            assert explained.next_wake is not None
            assert explained.next_wake_reason != ""
            await engine.abort(key, "enough")
            await engine.wait(key)
            await engine.settled()
            explained = await engine.explain(key)
            assert (explained.stage, explained.next_wake, explained.is_durable) == ("Ended", None, True)
            assert explained.status.reason == "TaskAction was aborted: enough"


async def test_what_tasks_wait_for_is_told_at_once(tmp_path: Path) -> None:
    big = tasks_pb2.TaskTemplate.FromString(shell("true"))
    big.container.resources.requests.add(name=tasks_pb2.Resources.CPU, value="1000")
    with anyio.fail_after(20):
        async with Engine(EngineConfig(data_dir=tmp_path)) as engine:
            key = await engine.submit(Submission(template=big.SerializeToString()))
            async with engine.events(key=key) as events:
                async for _, event in events:
                    if "never be placed" in event.reason:
                        break
            assert "it can never be placed here" in engine.waiting()[key]
            assert (await engine.explain(key)).waiting_for == engine.waiting()[key]
            await engine.abort(key)
            await engine.settled()
            assert engine.waiting() == {}


# -- Stopping --------------------------------------------------------------------------------------


async def test_an_aborted_task_tells_why_and_one_that_is_over_stays_as_it_is() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            done = await engine.submit(Submission(template=SLEEP, inputs=NOTHING))
            await engine.wait(done)
            await engine.abort(done, "too late")
            assert (await engine.wait(done)).outcome is Outcome.COMPLETED
            await engine.settled()
            assert (await engine.get(done)).outcome is Outcome.COMPLETED
            assert engine.live_tasks == 0


async def test_a_deleted_task_is_gone_with_its_events_and_its_waiters_know() -> None:
    with anyio.fail_after(20):
        async with in_memory() as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=HOUR))
            await begun(engine, key)
            seen: list[object] = []

            async def wait() -> None:
                try:
                    seen.append((await engine.wait(key)).outcome)
                except NotFoundError:
                    seen.append("gone")

            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await engine.delete(key)
            assert seen in (["gone"], [Outcome.ABORTED])
            await engine.settled()
            with pytest.raises(NotFoundError):
                await engine.get(key)


async def test_a_condition_is_met_by_one_signal() -> None:
    condition = run_definition_pb2.ConditionAction(name="go")
    condition.type.simple = types_pb2.BOOLEAN
    value = literals_pb2.Literal()
    value.scalar.primitive.boolean = True
    with anyio.fail_after(20):
        async with in_memory() as engine:
            task = await engine.submit(Submission(template=SLEEP, inputs=HOUR))
            with pytest.raises(PermanentError, match="no condition action"):
                await engine.signal(task, b"", by="me")
            key = await engine.submit(Submission(condition=condition.SerializeToString(), run_name="r1"))
            await engine.signal(key, value.SerializeToString(), by="me")
            assert (await engine.wait(key)).outcome is Outcome.SIGNALED
            with pytest.raises(PermanentError, match="signalled by 'me' already"):
                await engine.signal(key, value.SerializeToString(), by="you")


# -- Leaving ---------------------------------------------------------------------------------------


class OursError(Exception):
    pass


async def test_the_programs_own_error_comes_out_as_it_is_and_processes_are_stopped(tmp_path: Path) -> None:
    script = f"echo $$$$ > {tmp_path}/pid; echo there > {tmp_path}/ready; while :; do sleep 0.02; done"
    error = OursError("ours")

    async def program() -> None:
        async with Engine(EngineConfig(data_dir=tmp_path / "state")) as engine:
            key = await engine.submit(Submission(template=shell(script)))
            while not (tmp_path / "ready").exists():
                await begun(engine, key)
            raise error

    with anyio.fail_after(30), pytest.raises(OursError) as caught:
        await program()
    assert caught.value is error
    assert not is_alive(int((tmp_path / "pid").read_text()))


async def test_a_cancelled_program_leaves_the_engine_clean(tmp_path: Path) -> None:
    with anyio.fail_after(30):
        with anyio.CancelScope() as scope:
            async with Engine(EngineConfig(data_dir=tmp_path)) as engine:
                key = await engine.submit(Submission(template=shell("while :; do sleep 0.02; done")))
                await begun(engine, key)
                scope.cancel()
                await engine.wait(key)
        assert scope.cancelled_caught
        async with Engine(EngineConfig(data_dir=tmp_path)) as engine:  # nothing is locked any more
            await engine.abort(key)
            assert (await engine.wait(key)).outcome is Outcome.ABORTED


async def test_the_next_engine_goes_on_with_what_is_not_over(tmp_path: Path) -> None:
    script = f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    config = EngineConfig(data_dir=tmp_path / "state")
    with anyio.fail_after(30):
        async with Engine(config) as engine:
            done = await engine.submit(Submission(template=shell("true")))
            await engine.wait(done)
            key = await engine.submit(Submission(template=shell(script, retries=1)))
            await begun(engine, key)
        (tmp_path / "go").touch()
        async with Engine(config) as engine:
            assert engine.live_tasks <= 1
            status = await engine.wait(key)
            assert (await engine.get(done)).outcome is Outcome.COMPLETED
    assert status.outcome is Outcome.COMPLETED


async def test_a_detached_engine_leaves_processes_alone_and_the_next_one_finds_them(tmp_path: Path) -> None:
    script = f"echo $$$$ >> {tmp_path}/pids; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done"
    config = EngineConfig(data_dir=tmp_path / "state")
    with anyio.fail_after(30):
        async with Engine(config, detach=True) as engine:
            key = await engine.submit(Submission(template=shell(script)))
            await begun(engine, key)
            while not ((tmp_path / "pids").exists() and (tmp_path / "pids").read_text().endswith("\n")):
                await anyio.lowlevel.checkpoint()
        (pid,) = map(int, (tmp_path / "pids").read_text().split())
        assert is_alive(pid)
        (tmp_path / "go").touch()
        async with Engine(config) as engine:
            status = await engine.wait(key)
    assert (status.outcome, status.attempts) == (Outcome.COMPLETED, 1)
    assert (tmp_path / "pids").read_text() == f"{pid}\n"


async def test_one_engine_at_a_time(tmp_path: Path) -> None:
    with anyio.fail_after(20):
        async with Engine(EngineConfig(data_dir=tmp_path)) as engine:
            with pytest.raises(ConfigError, match="is in use by another cluster"):
                async with Engine(EngineConfig(data_dir=tmp_path)):
                    raise AssertionError
            assert await engine.list() == []


# -- What a program may bring along ----------------------------------------------------------------


class ForgetfulSink:
    """Fails every other call after it has taken the events."""

    def __init__(self) -> None:
        self.events: list[TaskEvent] = []
        self.calls = 0

    async def record(self, events: Sequence[TaskEvent]) -> None:
        self.events += events
        self.calls += 1
        if self.calls % 2:
            raise OSError("the answer was lost")


async def test_a_sink_of_the_program_gets_every_event_at_least_once() -> None:
    sink = ForgetfulSink()
    with anyio.fail_after(30):
        async with in_memory(sink=sink) as engine:
            keys = [await engine.submit(Submission(template=SLEEP, inputs=NOTHING)) for _ in range(10)]
            for key in keys:
                await engine.wait(key)
            recorded = [event for key in keys for event in await engine.history(key)]
    told = {event.key for event in sink.events}
    assert told == {event.key for event in recorded}
    assert len(recorded) == len(told)
    assert len(sink.events) > len(told)
    assert {event.name for event in sink.events if event.is_final} == {key.name for key in keys}


async def test_a_store_and_a_cluster_of_the_program_are_used() -> None:
    store = InMemoryStore()
    with anyio.fail_after(20):
        async with EmbeddedCluster.open(None) as cluster:
            async with in_memory(store=store, cluster=cluster) as engine:
                key = await engine.submit(Submission(template=SLEEP, inputs=NOTHING, run_name="r1"))
                await engine.wait(key)
            async with in_memory(store=store, cluster=cluster) as engine:  # it is still open
                assert (await engine.get(key)).outcome is Outcome.COMPLETED
    assert inputs_in(store) == [NOTHING]


# -- Other clusters --------------------------------------------------------------------------------


class OtherCluster(ForwardingCluster):
    """A cluster without a journal, as one behind an API server is."""


class Sink:
    def __init__(self) -> None:
        self.events: list[TaskEvent] = []

    async def record(self, events: Sequence[TaskEvent]) -> None:
        self.events.extend(events)


async def test_any_cluster_will_do_and_its_events_go_to_the_sink() -> None:
    sink = Sink()
    with anyio.fail_after(20):
        async with EmbeddedCluster.open() as truth, in_memory(cluster=OtherCluster(truth), sink=sink) as engine:
            key = await engine.submit(Submission(template=SLEEP, inputs=NOTHING))
            assert (await engine.wait(key)).outcome is Outcome.COMPLETED
            assert [event.is_final for event in sink.events][-1]
            with pytest.raises(ConfigError, match="history: this cluster keeps no journal"):
                await engine.history(key)
            with pytest.raises(ConfigError, match="events: this cluster keeps no journal"):
                async with engine.events():
                    pass
            await engine.delete(key)


async def test_a_cluster_without_a_journal_needs_a_sink() -> None:
    async with EmbeddedCluster.open() as truth:
        with pytest.raises(ConfigError, match="sink: this cluster keeps no journal"):
            async with in_memory(cluster=OtherCluster(truth)):
                pass
