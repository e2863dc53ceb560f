from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from flyteidl2.core import literals_pb2, tasks_pb2, types_pb2
from google.protobuf import duration_pb2

from propfan.pluginmachinery.errors import PermanentError, StorageError
from propfan.pluginmachinery.phases import ErrorKind, Phase
from propfan.pluginmachinery.testing import (
    NOW,
    CorePluginContract,
    FakeTaskContext,
    Story,
    literal_map,
    task_template,
)
from propfan.plugins.sleep import SleepPlugin, entry

TEMPLATE = task_template("core-sleep", inputs={"duration": types_pb2.DURATION})


def duration(seconds: int, nanos: int = 0) -> literals_pb2.LiteralMap:
    """One that Python's timedelta can not always hold."""
    value = duration_pb2.Duration(seconds=seconds, nanos=nanos)
    literal = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(duration=value)))
    return literals_pb2.LiteralMap(literals={"duration": literal})


class TestContract(CorePluginContract):
    entry = entry
    stories = (
        Story("nothing", TEMPLATE, duration(0), ((0, Phase.SUCCESS),)),
        Story(
            "an hour",
            TEMPLATE,
            duration(3600),
            ((0, Phase.RUNNING), (1800, Phase.RUNNING), (3599.9, Phase.RUNNING), (3600, Phase.SUCCESS)),
        ),
        Story("a nanosecond", TEMPLATE, duration(0, 1), ((0, Phase.RUNNING), (1e-6, Phase.SUCCESS))),
        Story("for ever", TEMPLATE, duration(315_576_000_000), ((0, Phase.RUNNING), (9e9, Phase.RUNNING))),
        Story("no input", task_template("core-sleep"), None, ((0, Phase.PERMANENT_FAILURE),), "BadTaskSpecification"),
    )


async def handle(template: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap | None) -> Any:
    return (await SleepPlugin().handle(FakeTaskContext(template, inputs=inputs))).info


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("template", "inputs", "message"),
    [
        (task_template("core-sleep"), None, "task type [core-sleep] requires exactly one duration input"),
        (
            task_template("core-sleep", inputs={"a": types_pb2.DURATION, "b": types_pb2.DURATION}),
            literal_map(a=timedelta(1), b=timedelta(1)),
            "task type [core-sleep] requires exactly one duration input",
        ),
        (
            task_template("core-sleep", inputs={"a": types_pb2.DURATION}, outputs={"o": types_pb2.INTEGER}),
            literal_map(a=timedelta(1)),
            "task type [core-sleep] does not support outputs",
        ),
        (
            task_template("core-sleep", inputs={"a": types_pb2.INTEGER}),
            literal_map(a=1),
            "input [a] must be typed as duration",
        ),
        (task_template("core-sleep", inputs={"a": types_pb2.NONE}), None, "input [a] must be typed as duration"),
        (TEMPLATE, None, "task type [core-sleep] requires a duration input value"),
        (TEMPLATE, literal_map(), "task type [core-sleep] requires a duration input value"),
        (TEMPLATE, literal_map(other=timedelta(1)), "duration input [duration] is missing"),
        (TEMPLATE, literal_map(duration=5), "duration input [duration] must be a duration literal"),
        (TEMPLATE, duration(-1), "duration input [duration] must be non-negative"),
        (TEMPLATE, duration(0, -1), "duration input [duration] must be non-negative"),
    ],
)
async def test_wrong_specification_fails_for_good_as_the_users(
    template: tasks_pb2.TaskTemplate, inputs: literals_pb2.LiteralMap | None, message: str
) -> None:
    info = await handle(template, inputs)
    assert info.phase is Phase.PERMANENT_FAILURE
    assert (info.error.code, info.error.message, info.error.kind) == ("BadTaskSpecification", message, ErrorKind.USER)


@pytest.mark.anyio
async def test_engine_is_asked_to_come_back_when_the_time_is_over() -> None:
    info = await handle(TEMPLATE, duration(90))
    assert info.recheck_at == NOW + timedelta(seconds=90)


@pytest.mark.anyio
async def test_inputs_that_can_not_be_read_are_not_the_users_fault() -> None:
    with pytest.raises(StorageError):
        await SleepPlugin().handle(FakeTaskContext(TEMPLATE).with_failing_ports())


@pytest.mark.anyio
async def test_inputs_are_read_once() -> None:
    ctx = FakeTaskContext(TEMPLATE, inputs=duration(60))
    await SleepPlugin().handle(ctx)
    transition = await SleepPlugin().handle(ctx.next_round(60).with_failing_ports())
    assert transition.info.phase is Phase.SUCCESS


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("version", "state"),
    [
        (2, msgspec.json.encode({"started_at": NOW, "ends_at": NOW})),
        (1, b"garbage"),
        (1, b'{"started_at": "\xff", "ends_at": ""}'),
        (1, b'{"started_at": "2026-01-01T00:00:00", "ends_at": "2026-01-01T00:00:00"}'),
    ],
)
async def test_state_that_it_did_not_write_is_corrupted(version: int, state: bytes) -> None:
    ctx = FakeTaskContext(TEMPLATE, inputs=duration(60))
    ctx.state_version, ctx.state = version, state
    with pytest.raises(PermanentError, match="state of core-sleep task 'r1-a0-0' can not be read") as raised:
        await SleepPlugin().handle(ctx)
    assert raised.value.code == "CorruptedPluginState"


@pytest.mark.anyio
async def test_longer_than_the_calendar_ends_when_it_ends() -> None:
    info = await handle(TEMPLATE, duration(2**62))
    assert info.recheck_at == datetime.max.replace(tzinfo=UTC)
