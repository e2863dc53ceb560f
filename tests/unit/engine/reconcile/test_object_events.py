"""Events of objects as reasons of the tasks that they run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import msgspec
import pytest

from propfan.engine.cluster import EVENT
from propfan.engine.task_events import TaskEvent
from propfan.pluginmachinery.phases import ReasonInfo
from tests.unit.engine.reconcile.rig import Rig, rig, running

pytestmark = pytest.mark.anyio

EVENTS = {"tells_events": True}


async def tell(it: Rig, about: str, note: str, *, type: str = "Warning", age_s: float = 0.0, **more: Any) -> None:
    time = (datetime.now(UTC) - timedelta(seconds=age_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    number = len((await it.truth.list(EVENT)).items)
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"e{number}", "namespace": "default"},
        "regarding": {"kind": "Pod", "namespace": "default", "name": about},
        "type": type,
        "reason": "FailedScheduling",
        "note": note,
        "eventTime": time,
        "reportingController": "default-scheduler",
        **more,
    }
    await it.truth.create(EVENT, msgspec.json.encode(event))


def reasons(events: Sequence[TaskEvent]) -> list[str]:
    return [reason.reason for event in events for reason in event.reasons]


async def test_a_warning_about_the_pod_is_told_at_once() -> None:
    async with running(reconciler=EVENTS) as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await tell(it, "r1-a0-0", "0/2 nodes are available", series={"count": 3})
        await it.until(lambda: reasons(it.sink.events))
        told: list[ReasonInfo] = [reason for event in it.sink.events for reason in event.reasons]
        assert [reason.reason for reason in told] == ["0/2 nodes are available"]
        source = told[0].kubernetes_event
        assert source is not None
        assert (source.type, source.reason, source.source_component, source.count) == (
            "Warning", "FailedScheduling", "default-scheduler", 3,
        )  # fmt: skip
        keys = [event.key for event in it.sink.events]
        assert len(keys) == len(set(keys)), "a new reason is an event of its own"


async def test_what_is_normal_goes_with_the_next_change_and_costs_no_write() -> None:
    async with running(reconciler=EVENTS) as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await tell(it, "r1-a0-0", "Pulling image", type="Normal")
        await it.until(lambda: any(live.news for live in it.reconciler.live.values()))
        assert reasons(it.sink.events) == []
        await it.move("r1-a0-0", "Succeeded")
        await it.until_over()
        assert reasons(it.sink.events) == ["Pulling image"]


async def test_events_of_pods_of_the_object_count_and_those_of_others_do_not() -> None:
    async with running(reconciler=EVENTS) as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await it.until(lambda: any(live.object for live in it.reconciler.live.values()))
        await tell(it, "r1-a0-7", "another attempt's")
        await tell(it, "r1", "another object's")
        await tell(it, "r1-a0-0-head-x7", "a pod's of the object")
        await it.until(lambda: reasons(it.sink.events))
        assert reasons(it.sink.events) == ["a pod's of the object"]


async def test_events_from_before_are_not_told() -> None:
    async with rig(reconciler=EVENTS) as it:
        await it.submit()
        await tell(it, "r1-a0-0", "long ago", age_s=60)
        async with anyio.create_task_group() as group:
            group.start_soon(it.reconciler.run)
            await it.until_pod("r1-a0-0")
            await tell(it, "r1-a0-0", "now")
            await it.until(lambda: reasons(it.sink.events))
            group.cancel_scope.cancel()
        assert reasons(it.sink.events) == ["now"]


@pytest.mark.parametrize("broken", [{"regarding": 7}, {"eventTime": "never"}])
async def test_an_event_that_can_not_be_read_is_left_out(broken: dict[str, Any]) -> None:
    async with running(reconciler=EVENTS) as it:
        await it.submit()
        await it.until_pod("r1-a0-0")
        await tell(it, "r1-a0-0", "odd", **broken)
        await tell(it, "r1-a0-0", "good")
        await it.until(lambda: reasons(it.sink.events))
        assert reasons(it.sink.events) == ["good"]
