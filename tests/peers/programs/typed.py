"""Typed inputs and outputs: dataclasses, pydantic models, enums, dates, optionals, nested collections."""

import enum
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import client
import flyte
from pydantic import BaseModel

env = flyte.TaskEnvironment(name="typed", image="python:3.11")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: float
    label: str = "p"


class Shape(BaseModel):
    points: list[Point]
    colour: Colour


@env.task
async def grow(shape: Shape, by: int) -> Shape:
    return Shape(points=[Point(p.x * by, p.y * by, p.label) for p in shape.points], colour=Colour.BLUE)


@env.task
async def main(
    start: datetime, length: timedelta, note: str | None = None, sizes: dict[str, list[int]] | None = None
) -> tuple[str, float, str, int]:
    shape = await grow(Shape(points=[Point(1, 0.5), Point(2, 1.5, "q")], colour=Colour.RED), 3)
    text = f"{shape.colour.value} {shape.points[1].x} {shape.points[1].y} {shape.points[1].label}"
    return text, (start + length).timestamp(), str(note), sum(map(sum, (sizes or {}).values()))


if __name__ == "__main__":
    client.connect()
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    client.answer(client.outputs(main, start=when, length=timedelta(seconds=10), sizes={"a": [1, 2], "b": [3]}))
