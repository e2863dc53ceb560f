"""Events on Flyte's wire, told to the generated server of its EventsProxyService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from flyteidl2.common import phase_pb2
from flyteidl2.workflow import run_definition_pb2

from propfan.engine.clock import SystemClock
from propfan.engine.flyte.connect import CallError, ConnectClient
from propfan.engine.flyte.events import FlyteEventSink, to_action_event
from propfan.engine.task_events import ActionPhase, NotAllRecordedError, TaskEvent
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.phases import (
    ContainerContext,
    ErrorKind,
    ExecutionError,
    KubernetesEvent,
    LogContext,
    Phase,
    PodLogContext,
    ReasonInfo,
    TaskLog,
)
from tests.unit.engine.flyte.services import EventsService, served

pytestmark = pytest.mark.anyio

NOW = datetime.now(UTC)
EVENT = TaskEvent(
    namespace="flyte",
    name="r1-a0",
    uid="u1",
    run="r1",
    action="a0",
    project="p",
    domain="d",
    attempt=1,
    phase=ActionPhase.RUNNING,
    plugin_phase=Phase.RUNNING,
    version=3,
    occurred_at=NOW,
)


def event(run: str = "r1", **more: Any) -> TaskEvent:
    return msgspec.structs.replace(EVENT, run=run, uid=run, **more)


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[EventsService, str]]:
    made = EventsService()
    with served(made.app) as url:
        yield made, url


@asynccontextmanager
async def sink(service: tuple[EventsService, str], **more: Any) -> AsyncIterator[FlyteEventSink]:
    made, url = service
    made.requests.clear()
    made.refused.clear()
    made.refusal = None
    async with ConnectClient.open(url, 5.0, "flyte.events-url") as client:
        yield FlyteEventSink(client, SystemClock(), cluster_name="c1", **more)


def runs(service: tuple[EventsService, str]) -> list[str]:
    return [told.id.run.name for told in service[0].events]


async def test_an_event_has_the_fields_of_the_executors(service: tuple[EventsService, str]) -> None:
    started = NOW - timedelta(seconds=5)
    whole = event(
        reason="waiting",
        error=ExecutionError("Code", "text", ErrorKind.SYSTEM),
        cache_status="CACHE_HIT",
        output_uri="s3://b/x/r1/a0/1/outputs.pb",
        logs=(TaskLog("http://log", "main", ttl_s=1.5, ready=True),),
        log_context=LogContext((PodLogContext("ns", "pod", "main", (ContainerContext("main", started),)),), "pod"),
        reasons=(ReasonInfo("pulled", started, KubernetesEvent("Warning", "Pulled", "kubelet", 2)),),
    )
    async with sink(service, organization="o") as it:
        await it.record([whole])
    (told,) = service[0].events
    assert (told.id.run.org, told.id.run.project, told.id.run.domain) == ("o", "p", "d")
    assert (told.id.run.name, told.id.name, told.attempt, told.version) == ("r1", "a0", 1, 3)
    assert told.phase == phase_pb2.ACTION_PHASE_RUNNING
    assert told.updated_time.ToDatetime(UTC) == NOW
    assert told.reported_time.ToDatetime(UTC) >= NOW
    assert told.cluster == "c1"
    assert (told.error_info.code, told.error_info.message) == ("Code", "text")
    assert told.error_info.kind == run_definition_pb2.ErrorInfo.KIND_SYSTEM
    assert told.outputs.output_uri == "s3://b/x/r1/a0/1/outputs.pb"
    assert told.outputs.report_uri == "s3://b/x/r1/a0/1/report.html"
    assert told.log_info[0].uri == "http://log"
    assert told.log_info[0].ttl.ToTimedelta() == timedelta(seconds=1.5)
    assert told.log_context.pods[0].containers[0].process.container_start_time.ToDatetime(UTC) == started
    assert [(reason.message, reason.reason, reason.count) for reason in told.cluster_events] == [
        ("waiting", "", 0),
        ("pulled", "Pulled", 2),
    ]
    assert told.cluster_events[1].type == run_definition_pb2.ClusterEvent.TYPE_WARNING
    assert not told.HasField("start_time")


@pytest.mark.parametrize("phase", ActionPhase)
async def test_every_phase_has_its_own_on_the_wire(phase: ActionPhase) -> None:
    assert to_action_event(event(phase=phase), "c", "", NOW).phase == int(phase)


async def test_a_failed_attempt_is_told_with_the_next_one(service: tuple[EventsService, str]) -> None:
    failed = event(phase=ActionPhase.FAILED, error=ExecutionError("Exit1", "it broke"))
    async with sink(service) as it:
        await it.record([failed, event("other"), event(attempt=2, phase=ActionPhase.QUEUED, version=0)])
    assert runs(service) == ["other", "r1"]
    assert service[0].events[1].cluster_events[0].message == "attempt 1 failed: [Exit1] it broke"
    assert service[0].events[0].cluster_events == []


async def test_the_last_failure_is_one_on_the_wire(service: tuple[EventsService, str]) -> None:
    failed = event(phase=ActionPhase.FAILED, is_final=True, error=ExecutionError("Exit1", "it broke"))
    async with sink(service) as it:
        await it.record([failed])
    assert [told.phase for told in service[0].events] == [phase_pb2.ACTION_PHASE_FAILED]


async def test_what_is_refused_for_good_holds_up_no_other(service: tuple[EventsService, str]) -> None:
    async with sink(service) as it:
        await it.record([event("first")])
        service[0].refused["bad"] = Code.INVALID_ARGUMENT
        await it.record([event(f"r{n}") for n in range(9)] + [event("bad")] + [event(f"s{n}") for n in range(9)])
        assert it.refused == 1
    assert sorted(runs(service)) == sorted(["first", *(f"r{n}" for n in range(9)), *(f"s{n}" for n in range(9))])


async def test_a_service_that_refuses_everything_loses_nothing(service: tuple[EventsService, str]) -> None:
    async with sink(service) as it:
        service[0].refusal = ConnectError(Code.INVALID_ARGUMENT, "id.run.org: must not be empty")
        with pytest.raises(CallError, match=r"id\.run\.org"):
            await it.record([event("a"), event("b")])
        service[0].refusal = None
        await it.record([event("a"), event("b")])
    assert runs(service) == ["a", "b"]


async def test_an_action_that_is_not_known_yet_is_told_later(service: tuple[EventsService, str]) -> None:
    async with sink(service) as it:
        service[0].refused["new"] = Code.NOT_FOUND
        with pytest.raises(NotAllRecordedError) as caught:
            await it.record([event("a"), event("new", occurred_at=datetime.now(UTC)), event("b")])
        assert [left.run for left in caught.value.left] == ["new"]
        assert runs(service) == ["a", "b"]
        old = event("new", occurred_at=NOW - timedelta(minutes=5))
        await it.record([old])
        assert it.refused == 1


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.INTERNAL, Code.UNAUTHENTICATED, Code.RESOURCE_EXHAUSTED])
async def test_a_service_that_is_out_of_order_is_asked_again(service: tuple[EventsService, str], code: Code) -> None:
    async with sink(service) as it:
        service[0].refusal = ConnectError(code, "not now")
        with pytest.raises(CallError) as caught:
            await it.record([event()])
        assert caught.value.code == code.value
        assert it.refused == 0


async def test_many_events_are_packed(service: tuple[EventsService, str]) -> None:
    async with sink(service) as it:
        await it.record([event(f"r{n}", reason="x" * 200) for n in range(400)])
    assert len(service[0].requests) == 1
    assert len(runs(service)) == 400


@pytest.mark.parametrize("url", ["", "http://", "ftp://x", "http://h:99999", "http://h:0"])
async def test_what_is_no_url_is_refused_by_its_setting(url: str) -> None:
    with pytest.raises(ConfigError, match=r"flyte\.events-url"):
        async with ConnectClient.open(url, 5.0, "flyte.events-url"):
            pass


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("flyte:8090", "http://flyte:8090"),
        ("dns:///flyte:8090", "http://flyte:8090"),
        ("https://h/path/", "https://h/path"),
    ],
)
async def test_forms_of_a_url(url: str, base: str) -> None:
    async with ConnectClient.open(url, 5.0, "x") as client:
        assert client.url == base


async def test_nobody_there_is_told_as_such() -> None:
    async with ConnectClient.open("http://127.0.0.1:1", 5.0, "x") as client:
        with pytest.raises(CallError) as caught:
            await FlyteEventSink(client, SystemClock(), cluster_name="c").record([event()])
    assert caught.value.code == "unavailable"


async def raw_app(scope: Any, receive: Any, send: Any) -> None:
    """A server that is none of the protocol."""
    status = 404 if "Record" in scope["path"] else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": b"<html>nothing here</html>"})


async def test_a_server_of_another_kind_is_told_as_such() -> None:
    with served(raw_app) as url:
        async with ConnectClient.open(url, 5.0, "x") as client:
            with pytest.raises(CallError, match="nothing here") as caught:
                await FlyteEventSink(client, SystemClock(), cluster_name="c").record([event()])
            assert caught.value.code == "unimplemented"
            with pytest.raises(CallError, match="text/html"):
                await client.call("other.Service/Method", to_action_event(event(), "c", "", NOW), type(EVENT_WIRE))


EVENT_WIRE = run_definition_pb2.ActionEvent()
