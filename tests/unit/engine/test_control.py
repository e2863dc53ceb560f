from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import anyio
import msgspec
import pytest
from flyteidl2.core import types_pb2

from propfan.engine import Engine, EngineConfig, Submission, control
from propfan.engine.control import Reply, Request, open_tasks, serve, socket_path
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.errors import ConfigError, InUseError, NotFoundError, PropfanError, UnavailableError
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import literal_map, task_template
from propfan.plugins.sleep import entry

pytestmark = pytest.mark.anyio

SLEEP = task_template("core-sleep", inputs={"duration": types_pb2.DURATION}).SerializeToString()
HOUR = literal_map(duration=timedelta(hours=1)).SerializeToString()


@asynccontextmanager
async def serving(data_dir: Path) -> AsyncIterator[tuple[Engine, TaskKey]]:
    """An engine that answers about one task, which sleeps for an hour."""
    registry = Registry()
    registry.register(entry)
    with anyio.fail_after(30):
        async with Engine(EngineConfig(data_dir=data_dir), registry=registry) as engine, serve(engine, data_dir):
            yield engine, await engine.submit(Submission(template=SLEEP, inputs=HOUR, run_name="r1"))


async def ask(data_dir: Path, line: bytes) -> bytes:
    """What comes back until the connection is closed."""
    async with await anyio.connect_unix(socket_path(data_dir)) as stream:
        await stream.send(line)
        await stream.send_eof()
        answer = b""
        try:
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return answer


async def test_a_running_engine_is_asked_through_its_socket(tmp_path: Path) -> None:
    async with serving(tmp_path) as (engine, key):
        async with open_tasks(tmp_path) as tasks:
            assert tasks.is_live
            assert [status.key for status in await tasks.list()] == [key]
            assert (await tasks.explain(key)).status.key == key
            await tasks.abort(key, "by hand")
        status = await engine.wait(key)
        assert (status.outcome, status.reason) == (Outcome.ABORTED, "TaskAction was aborted: by hand")


async def test_without_an_engine_the_database_is_asked(tmp_path: Path) -> None:
    async with serving(tmp_path) as (engine, key):
        live = await engine.get(key)
    async with open_tasks(tmp_path) as tasks:
        assert not tasks.is_live
        (found,) = await tasks.list()
        assert found.key == live.key
        assert "an engine: none runs" in (await tasks.explain(key)).waiting_for
        await tasks.abort(key, "later")
    async with serving(tmp_path) as (engine, same):
        assert same == key
        assert (await engine.wait(key)).reason == "TaskAction was aborted: later"
    async with open_tasks(tmp_path) as tasks:
        explained = await tasks.explain(key)
        assert (explained.stage, explained.waiting_for) == ("Ended", "")


async def test_readers_without_an_engine_take_turns(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, key):
        pass
    seen = []

    async def look() -> None:
        async with open_tasks(tmp_path) as tasks:
            seen.extend([status.key for status in await tasks.list()])

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(look)
    assert seen == [key] * 5


async def test_an_engine_that_does_not_answer_is_told_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.1)
    with anyio.fail_after(20):
        async with Engine(EngineConfig(data_dir=tmp_path), registry=Registry()):
            with pytest.raises(InUseError, match="is in use by another cluster"):
                async with open_tasks(tmp_path):
                    raise AssertionError


@pytest.mark.parametrize("is_live", [True, False])
async def test_a_task_that_is_not_there_is_not_found_either_way(tmp_path: Path, *, is_live: bool) -> None:
    nobody = TaskKey("default", "nobody")
    async with serving(tmp_path):
        if is_live:
            async with open_tasks(tmp_path) as tasks:
                for call in (tasks.explain(nobody), tasks.abort(nobody, "")):
                    with pytest.raises(NotFoundError, match="nobody"):
                        await call
    if not is_live:
        async with open_tasks(tmp_path) as tasks:
            for call in (tasks.explain(nobody), tasks.abort(nobody, "")):
                with pytest.raises(NotFoundError, match="nobody"):
                    await call


async def test_a_directory_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no tasks: 'propfan run' makes it"):
        async with open_tasks(tmp_path):
            raise AssertionError


async def test_the_socket_is_its_owners_and_goes_with_the_engine(tmp_path: Path) -> None:
    path = socket_path(tmp_path)
    async with serving(tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_that_a_dead_engine_left_is_in_nobodys_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, key):
        pass
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(socket_path(tmp_path)))
    left.close()
    async with open_tasks(tmp_path) as tasks:
        assert not tasks.is_live
        assert [status.key for status in await tasks.list()] == [key]
    async with serving(tmp_path), open_tasks(tmp_path) as tasks:
        assert tasks.is_live
        assert [status.key for status in await tasks.list()] == [key]


async def test_an_engine_that_stops_before_it_answers_is_told(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with serving(tmp_path) as (_, key):
            tasks = await stack.enter_async_context(open_tasks(tmp_path))
            await tasks.list()
        with pytest.raises(UnavailableError, match="try again"):
            await tasks.explain(key)


async def test_a_data_directory_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    assert len(str(socket_path(deep))) <= 100
    assert socket_path(deep) != socket_path(tmp_path / ("d" * 101))
    async with serving(deep) as (_, key), open_tasks(deep) as tasks:
        assert [status.key for status in await tasks.list()] == [key]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense\n", "malformed"),
        (b"[]\n", "Expected `object`"),
        (b'{"method": "stop"}\n', "there is no method 'stop'"),
        (b'{"method": "list", "more": 1}\n', "more"),
        (b'{"method": "explain", "key": ["a"]}\n', "Expected `array` of length 2"),
        (b"\xff\n", ""),
    ],
)
async def test_a_request_that_is_none_is_answered_with_its_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    async with serving(tmp_path):
        reply = msgspec.json.decode(await ask(tmp_path, line), type=Reply)
        assert reply.error != ""
        assert problem in reply.error
        assert msgspec.json.decode(await ask(tmp_path, b'{"method": "list"}\n'), type=Reply).error == ""


@pytest.mark.parametrize("line", [b"", b'{"method": "li', b"x" * 200_000])
async def test_a_connection_that_breaks_off_or_never_ends_its_line_harms_nobody(tmp_path: Path, line: bytes) -> None:
    async with serving(tmp_path):
        with suppress(anyio.BrokenResourceError):  # closed before all was sent
            assert await ask(tmp_path, line) == b""
        assert msgspec.json.decode(await ask(tmp_path, b'{"method": "list"}\n'), type=Reply).error == ""


async def test_an_error_of_the_engine_comes_back_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(tmp_path) as (engine, _):

        async def fails() -> None:
            raise PropfanError("no room")

        monkeypatch.setattr(engine, "list", fails)
        async with open_tasks(tmp_path) as tasks:
            with pytest.raises(PropfanError, match=r"^no room$"):
                await tasks.list()


def test_a_request_survives_the_wire() -> None:
    request = Request("abort", TaskKey("ns", "r1-a0"), "why\n?")
    line = msgspec.json.encode(request)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=Request) == request


def test_a_configuration_without_a_data_directory_is_refused() -> None:
    with pytest.raises(ConfigError, match="data-dir: is needed here"):
        control.data_dir_of(EngineConfig())
