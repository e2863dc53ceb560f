"""What the demo runs: functions of Flyte's SDK, and containers without any SDK."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import flyte
from flyteidl2.core import interface_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2

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


@env.task
def mandelbrot(view: View, first_row: int, rows: int) -> list[list[int]]:
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
def flaky(succeeds_at: int) -> str:
    """Fails until the given attempt, counted from 1."""
    attempt = int(os.environ["FLYTE_ATTEMPT_NUMBER"]) + 1
    if attempt < succeeds_at:
        raise ConnectionError(f"attempt {attempt} found nobody at home")
    return f"attempt {attempt} got through"


@env.task
def broken(number: int) -> float:
    return 1 / (number - number)


DARTS_FILE = "darts.txt"
DARTS = 20_000
_THROW = f"""\
out=${{1#file://}}
mkdir -p "$out" && awk -v seed="$2" '
  BEGIN {{ srand(seed); for (n = 0; n < {DARTS}; n++) {{ x = rand(); y = rand(); hits += x * x + y * y < 1 }} print hits }}
' > "$out/{DARTS_FILE}"
"""


def darts() -> bytes:
    """Throws darts at a quarter of a disc and leaves the hits beside its other outputs; takes a ``seed``."""
    seed = interface_pb2.Variable(type=types_pb2.LiteralType(simple=types_pb2.INTEGER))
    variables = interface_pb2.VariableMap(variables=[interface_pb2.VariableEntry(key="seed", value=seed)])
    template = _container("darts", ["/bin/sh", "-ec", _THROW], ["darts", "{{.outputPrefix}}", "{{.Inputs.seed}}"])
    template.interface.CopyFrom(interface_pb2.TypedInterface(inputs=variables))
    return template.SerializeToString()


def seed(number: int) -> bytes:
    """Inputs of ``darts``."""
    inputs = common_pb2.Inputs()
    inputs.literals.add(name="seed").value.scalar.primitive.integer = number
    return inputs.SerializeToString()


def endless(timeout_s: int) -> bytes:
    """Would run for an hour, and may for a few seconds."""
    template = _container("endless", ["/bin/sh", "-c", "exec sleep 3600"], [])
    template.metadata.timeout.seconds = timeout_s
    return template.SerializeToString()


def _container(name: str, command: Sequence[str], args: Sequence[str]) -> tasks_pb2.TaskTemplate:
    resources = tasks_pb2.Resources()
    resources.requests.add(name=tasks_pb2.Resources.CPU, value="50m")
    resources.requests.add(name=tasks_pb2.Resources.MEMORY, value="16Mi")
    container = tasks_pb2.Container(image="busybox", command=command, args=args, resources=resources)
    template = tasks_pb2.TaskTemplate(type="raw-container", container=container)
    template.id.name = f"demo.{name}"
    return template
