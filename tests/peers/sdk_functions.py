"""Functions that the real SDK turns into tasks."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import os

import flyte

env = flyte.TaskEnvironment(name="peer", image="python:3.11", env_vars={"GREETING": "hello"})


@dataclasses.dataclass
class Point:
    x: float
    label: str


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


@env.task(retries=2, timeout=dt.timedelta(seconds=30))
async def double(number: int, name: str = "default") -> tuple[int, str]:
    return number * 2, f"{os.environ['GREETING']} {name}"


@env.task
def everything(
    point: Point,
    colour: Colour,
    when: dt.datetime,
    span: dt.timedelta,
    numbers: list[int],
    table: dict[str, float],
    maybe: int | None,
) -> Point:
    total = sum(numbers) + sum(table.values()) + (maybe or 0) + span.total_seconds() + when.year
    return Point(point.x + total, f"{point.label} {colour.value}")


@env.task
def nothing() -> None:
    return None


@env.task
def refuse(number: int) -> int:
    raise ValueError(f"{number} is not wanted")
