"""A connector that blocks, hangs, leaves or can not be made harms no other."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread
import grpc
import msgspec
import pytest
import structlog
from flyteidl2.connector import connector_pb2

from propfan.engine.connector_service import server
from propfan.engine.connector_service.config import ConnectorServiceConfig, LimitConfig, TimeoutConfig
from propfan.pluginmachinery.connector import ConnectorSetup
from propfan.pluginmachinery.connector.registry import Offers
from propfan.pluginmachinery.errors import ConnectorError
from tests.unit.engine.connector_service.rig import (
    CONFIG,
    Client,
    Gated,
    Greeter,
    Jobs,
    blocking,
    category,
    hanging,
    job,
    leaving,
    offers_of,
    serving,
    until,
)
from tests.unit.engine.connector_service.test_faults import status_of

pytestmark = pytest.mark.anyio

Code = grpc.StatusCode
QUICK = TimeoutConfig(create_s=0.6, get_s=0.3, delete_s=0.3, logs_s=0.3)


def quick(**changes: Any) -> ConnectorServiceConfig:
    return msgspec.structs.replace(CONFIG, timeouts=QUICK, **changes)


async def entered(kind: type[Gated]) -> None:
    assert await anyio.to_thread.run_sync(kind.entered.wait, 10)


async def test_a_connector_that_blocks_its_loop_is_told_by_name_and_place() -> None:
    kind = blocking()
    config = quick(block_warning_s=0.2, block_limit_s=0.4)
    with structlog.testing.capture_logs() as logs:
        async with serving(kind, Jobs, config=config) as it:
            try:
                code, problem = await status_of(it.client.create(job("blocking")))
                assert code is Code.DEADLINE_EXCEEDED
                assert "connector 'Blocking' did not answer within 0.6 s: its event loop has not reacted for" in problem
                assert "rig.py:" in problem
                assert " in create; make that method a plain 'def', which runs in a thread" in problem
                with anyio.fail_after(5):  # not touched by the other's block
                    meta = await it.client.create(job())
                    assert (await it.client.get(meta)).message == "fine"
                await until(lambda: it.service._hosts[0].blocked_for_s >= config.block_limit_s)
                code, problem = await status_of(it.client.get(b'{"id":"x"}', "blocking"))
                assert code is Code.UNAVAILABLE
                assert "connector 'Blocking' does not react: its event loop has not reacted for" in problem
            finally:
                kind.gate.set()
            await until(lambda: not it.service._hosts[0].blocked_for_s)
            assert (await it.client.get(b'{"id":"x"}', "blocking")).phase == 2
    told = [entry for entry in logs if entry["event"].startswith("connector")]
    assert [entry["event"] for entry in told] == ["connector blocks its event loop", "connector reacts again"]
    assert told[0]["connector"] == "Blocking"
    assert "rig.py:" in told[0]["where"]


async def test_an_async_call_that_hangs_is_cancelled() -> None:
    kind: Any = hanging()
    async with serving(kind, config=quick()) as it:
        code, problem = await status_of(it.client.create(job("hanging")))
        assert code is Code.DEADLINE_EXCEEDED
        assert "connector 'Hanging' did not answer within 0.6 s: it neither ended nor failed" in problem
        assert await anyio.to_thread.run_sync(kind.is_cancelled.wait, 10)


async def test_a_caller_that_goes_away_cancels_its_call() -> None:
    kind: Any = hanging()
    async with serving(kind) as it:
        call = it.client.connector.CreateTask(connector_pb2.CreateTaskRequest(template=job("hanging")))
        await entered(kind)
        call.cancel()
        assert await anyio.to_thread.run_sync(kind.is_cancelled.wait, 10)


async def test_a_callers_deadline_is_answered_before_it_passes() -> None:
    async with serving(hanging()) as it:
        code, problem = await status_of(it.client.create(job("hanging"), timeout_s=1.5))
        assert code is Code.DEADLINE_EXCEEDED
        assert "did not answer within 1.2" in problem


async def test_threads_that_hang_keep_their_slots_and_further_calls_are_refused() -> None:
    kind = hanging()
    meta = b'{"id":"x"}'
    async with serving(kind, Jobs, config=quick()) as it:
        try:
            for _ in range(2):
                assert (await status_of(it.client.get(meta, "hanging")))[0] is Code.DEADLINE_EXCEEDED
            code, problem = await status_of(it.client.get(meta, "hanging"))
            assert code is Code.RESOURCE_EXHAUSTED
            assert "connector 'Hanging' has 2 calls in flight, and no turn was free within 0.3 s" in problem
            assert (await it.client.get(await it.client.create(job()))).message == "fine"
        finally:
            kind.gate.set()
        await until(lambda: not it.service._hosts[0].calls_in_flight)
        assert (await it.client.get(meta, "hanging")).phase == 2


async def test_all_connectors_together_have_a_limit() -> None:
    kind = hanging()
    async with serving(kind, Jobs, config=quick(max_concurrent_calls=1)) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(status_of, it.client.get(b'{"id":"x"}', "hanging", timeout_s=5))
            await entered(kind)
            found: list[tuple[grpc.StatusCode, str]] = []
            tasks.start_soon(first_refusal, it.client, found)
        kind.gate.set()
        assert found[0][0] is Code.RESOURCE_EXHAUSTED
        assert "the service has 1 calls in flight" in found[0][1]


async def first_refusal(client: Client, found: list[tuple[grpc.StatusCode, str]]) -> None:
    found.append(await status_of(client.get(b'{"id":"x"}', timeout_s=0.25)))


async def test_a_stream_that_stalls_ends_in_time() -> None:
    class Stalling(Jobs):
        async def get_logs(self, meta: Any, query: Any) -> Any:
            async for page in super().get_logs(meta, query):
                yield page
                await anyio.sleep_forever()

    async with serving(Stalling, config=quick()) as it:
        meta = await it.client.create(job())
        call = it.client.connector.GetTaskLogs(
            connector_pb2.GetTaskLogsRequest(resource_meta=meta, task_category=category("job"))
        )
        assert (await call.read()).body.lines
        assert (await call.read()).header.token == "0"
        with pytest.raises(grpc.aio.AioRpcError, match=r"did not answer within 0\.3 s") as caught:
            await call.read()
        assert caught.value.code() is Code.DEADLINE_EXCEEDED


async def test_a_connector_that_ends_the_process_does_not() -> None:
    meta = b'{"id":"x"}'
    async with serving(leaving(), Jobs) as it:
        for call in (
            it.client.create(job("leaving")),
            it.client.get(meta, "leaving"),
            it.client.delete(meta, "leaving"),
        ):
            code, problem = await status_of(call)
            assert code is Code.INTERNAL
            assert "tried to end the process: " in problem
        assert (await it.client.get(await it.client.create(job()))).message == "fine"
        assert all(host.is_alive for host in it.service._hosts)


async def test_many_calls_of_many_connectors_at_once() -> None:
    async with serving(Jobs, Greeter) as it:
        done: list[bytes] = []

        async def one(number: int) -> None:
            meta = await it.client.create(job(answer="done", fail={}))
            if number % 3 == 0:
                await status_of(it.client.create(job(fail={"create": "lookup"})))
            assert (await it.client.get(meta)).message == "fine"
            done.append(meta)

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(one, number)
        assert len(done) == 200
        assert all(host.calls_in_flight == 0 for host in it.service._hosts)
        assert {host.slots.value for host in it.service._hosts} == {100}
        assert it.service._dispatcher._slots.value == CONFIG.max_concurrent_calls


async def test_connectors_that_can_not_be_made_are_told_and_the_others_serve() -> None:
    class Broken(Jobs):
        def __init__(self, setup: ConnectorSetup) -> None:
            raise LookupError("no licence")

    class Leaver(Jobs):
        def __init__(self, setup: ConnectorSetup) -> None:
            raise SystemExit(1)

    class Duplicate(Jobs):
        name = "Duplicate"

    release = threading.Event()

    class Slow(Jobs):
        def __init__(self, setup: ConnectorSetup) -> None:
            release.wait()
            super().__init__(setup)

    config = msgspec.structs.replace(CONFIG, load_timeout_s=0.5)
    try:
        async with serving(Broken, Leaver, Jobs, Duplicate, Slow, Greeter, config=config) as it:
            assert [line.name for line in it.service.connectors] == ["Greeter", "Jobs"]
            problems = sorted(str(error) for error in it.service.refused)
            assert "connector 'Duplicate': categories: Duplicate connector for task type: job" in problems[0]
            assert "connector 'tests:Broken': load: raised LookupError: no licence" in problems[1]
            assert "connector 'tests:Leaver': load: SystemExit: 1" in problems[2]
            assert "connector 'tests:Slow': load: took longer than 0.5 s: it is at" in problems[3]
            assert (await it.client.get(await it.client.create(job()))).message == "fine"
    finally:
        release.set()


async def test_a_connector_that_must_load_ends_the_service() -> None:
    class Broken(Jobs):
        def __init__(self, setup: ConnectorSetup) -> None:
            raise LookupError("no licence")

    config = msgspec.structs.replace(CONFIG, must_load=True)
    for kinds, settings in (((Broken, Jobs), config), ((Broken,), CONFIG)):
        with pytest.raises(ConnectorError, match="no licence"):
            async with server.opened(settings, {}, offers_of(*kinds)):
                pytest.fail("it serves")


async def test_a_service_without_any_connector_serves_none() -> None:
    async with server.opened(CONFIG, {}, Offers([], [])) as service:
        assert service.connectors == ()


async def test_limits_of_a_connector_that_is_not_there_are_told() -> None:
    config = msgspec.structs.replace(CONFIG, limits={"Slurm": LimitConfig()})
    with structlog.testing.capture_logs() as logs:
        async with serving(Jobs, config=config):
            pass
    (told,) = [entry for entry in logs if entry["event"] == "limits name a connector that is not served"]
    assert (told["connector"], told["served"]) == ("Slurm", "Jobs")


async def test_a_drain_lets_calls_end_and_takes_no_more() -> None:
    kind = hanging()
    async with serving(kind) as it:
        got: list[Any] = []

        async def look() -> None:
            got.append(await it.client.get(b'{"id":"x"}', "hanging"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            await entered(kind)
            tasks.start_soon(it.service.drain)
            with anyio.fail_after(10):
                while True:
                    try:
                        await it.client.create(job("unknown"), timeout_s=1)
                    except grpc.aio.AioRpcError as error:
                        if error.code() is Code.UNAVAILABLE:
                            break
            kind.gate.set()
        assert got[0].phase == 2


async def test_a_drain_ends_in_time() -> None:
    kind = hanging()
    async with serving(kind, config=msgspec.structs.replace(CONFIG, drain_s=0.2)) as it:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(status_of, it.client.get(b'{"id":"x"}', "hanging"))
            await entered(kind)
            with anyio.fail_after(5):
                await it.service.drain()
        kind.gate.set()


async def test_a_host_that_does_not_stop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    from propfan.engine.connector_service import hosts

    monkeypatch.setattr(hosts, "_CLOSE_PATIENCE_S", 0.05)
    kind = blocking()
    with structlog.testing.capture_logs() as logs:
        async with serving(kind, config=quick()) as it:
            await status_of(it.client.create(job("blocking")))
    assert [entry["connector"] for entry in logs if entry["event"] == "connector did not stop"] == ["tests:Blocking"]
    kind.gate.set()
