"""A pipeline as Flyte's documentation teaches to write one, and the client that runs it.

python pipeline.py HOST:PORT
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from datetime import timedelta

import flyte
import flyte.errors

env = flyte.TaskEnvironment(
    name="demo",
    image="python:3.11-slim",
    resources=flyte.Resources(cpu="900m", memory="256Mi"),  # each is a Python process, so a core's worth
)


@dataclasses.dataclass
class View:
    """A window on the complex plane, in pixels; ``left + top * i`` is its upper left corner."""

    left: float
    top: float
    step: float
    columns: int
    rows: int
    limit: int


VIEW = View(left=-2.25, top=1.2, step=0.04, columns=80, rows=60, limit=120)
"""The whole Mandelbrot set."""

STRIPS = 12


@env.task
async def strip(view: View, first_row: int, rows: int) -> list[list[int]]:
    """Steps until a point escapes, 0 when it stays, of each point in a strip of the view."""

    def steps(point: complex) -> int:
        z = 0j
        for n in range(view.limit):
            if abs(z) > 2:
                return n
            z = z * z + point
        return 0

    return [
        [steps(complex(view.left + column * view.step, view.top - row * view.step)) for column in range(view.columns)]
        for row in range(first_row, first_row + rows)
    ]


@env.task(retries=3)
async def flaky(succeeds_at: int) -> str:
    """Fails until the given attempt, counted from 1."""
    attempt = int(os.environ["FLYTE_ATTEMPT_NUMBER"]) + 1
    if attempt < succeeds_at:
        raise ConnectionError(f"attempt {attempt} found nobody at home")
    return f"attempt {attempt} got through"


@env.task
async def broken(number: int) -> float:
    return 1 / (number - number)


@env.task(timeout=timedelta(seconds=3))
async def endless() -> None:
    await asyncio.sleep(3600)


@env.task
async def main(view: View) -> tuple[list[list[int]], list[str]]:
    """The picture's rows, and what became of the tasks that have a hard time."""
    rows = view.rows // STRIPS
    with flyte.group("strips"):
        strips = asyncio.gather(*(strip(view, n * rows, rows) for n in range(STRIPS)))
    told = [await flaky(3)]
    for child in (broken(7), endless()):
        try:
            await child
        except flyte.errors.BaseRuntimeError as error:
            told.append(f"{type(error).__name__} {error.code}")
    return [row for part in await strips for row in part], told


if __name__ == "__main__":
    flyte.init(endpoint=sys.argv[1], insecure=True, project="demo", domain="development")
    run = flyte.run(main, VIEW)
    run.wait(quiet=True)
    if str(run.phase) != "ActionPhase.SUCCEEDED":
        sys.exit(f"{run.name}: {run.phase}, {run.details().action_details.error_info}")
    picture, outcomes = run.outputs()
    print(json.dumps({"run": run.name, "picture": picture, "outcomes": outcomes}))
