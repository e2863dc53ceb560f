"""Pods to phases: the rows of ``python -m benchmarks conversion`` that begin with ``Pod``.

A row is named like the row of the Go backend that does the same work; ``memory`` says what a pod costs in a cache.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from benchmarks import harness
from benchmarks.harness import Measurement, Target
from propfan._speedups import pods
from propfan.pluginmachinery.phases import PhaseInfo, PluginState
from propfan.pluginmachinery.podphase import PodPhases
from tests.golden import inputs

STATES: Final = ("running", "succeeded")

FACTORS: Final = MappingProxyType(
    {"PodPhaseTyped": 3.0, "PodPhaseFromWatchJSON": 15.0, "PodPhaseFromProtobuf": 2.5, "PodDecodeJSON": 15.0}
)
"""How many times faster than the Go row of that name, up to its slash, a call has to be."""

DECODED_BYTES: Final = 3000
"""The most that a typical running pod may cost in a cache."""


def calls(data: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Name and work of each row; ``data`` holds the Go rows' inputs.

    Two Go rows share one call here: pods come as JSON whatever they are compared with.
    """
    small, rich = _context(data / "container_small.json"), _context(data / "container_rich.json")
    phases = PodPhases()
    for state in STATES:
        typed = pods.decode(_compact_json(data / f"pod_{state}.json"))
        yield f"PodPhaseTyped/{state}", _phase_of(phases, small, typed)
    line = _compact_json(data / "watch_pod_running.json")
    yield "PodDecodeJSON", lambda: pods.decode_event(line)
    for state in STATES:
        call = _phase_from(phases, rich, _compact_json(data / f"watch_pod_{state}.json"))
        yield f"PodPhaseFromWatchJSON/{state}", call
        yield f"PodPhaseFromProtobuf/{state}", call


def targets(measured: Mapping[str, Measurement], go: Mapping[str, Any], data: Path) -> list[Target]:
    """Speed by ``FACTORS``, and memory. ``go`` holds the rows of ``go.json``."""
    found = []
    for name, row in go.items():
        factor = FACTORS.get(name.split("/")[0])
        if factor is not None:
            why = f"{factor:g}x Go's {row['us_median']} us"
            found.append(harness.at_most(name, row["us_median"] / factor, measured[name], why))
    size_bytes = memory(data)["PodDecoded/running"]
    goal, is_met = f"<= {DECODED_BYTES} bytes", size_bytes <= DECODED_BYTES
    return [*found, Target("PodDecoded/running", goal, f"{size_bytes} bytes", is_met)]


def memory(data: Path) -> Mapping[str, int]:
    """Bytes of one pod of the small task: decoded for its phase, and as the JSON that a cache may keep of it."""
    pod = pods.decode(_compact_json(data / "pod_running.json"))
    kept = pods.encode(pod)
    return MappingProxyType({"PodDecoded/running": deep_size(pod), "PodKept/running": sys.getsizeof(kept)})


def deep_size(value: object, seen: set[int] | None = None) -> int:
    """Bytes of a decoded value with all that hangs on it; what is shared counts once."""
    seen = set() if seen is None else seen
    if id(value) in seen or value is None or isinstance(value, bool):
        return 0
    seen.add(id(value))
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    else:
        parts = list(value) if isinstance(value, tuple) else []
    return sys.getsizeof(value) + sum(deep_size(part, seen) for part in parts)


def _context(path: Path) -> inputs.Context:
    return inputs.Context(msgspec.json.decode(path.read_bytes()))


def _compact_json(path: Path) -> bytes:
    """As an API server writes it: without spaces."""
    content: Any = msgspec.json.decode(path.read_bytes())
    return msgspec.json.encode(content)


def _phase_of(phases: PodPhases, ctx: inputs.Context, pod: pods.ObservedPod) -> Callable[[], PhaseInfo]:
    task, now, last = ctx.metadata.task_execution_id, ctx.now, PluginState()
    return lambda: phases.phase(pod, phases.plan(ctx), task, now, last)


def _phase_from(phases: PodPhases, ctx: inputs.Context, line: bytes) -> Callable[[], PhaseInfo]:
    task, now, last = ctx.metadata.task_execution_id, ctx.now, PluginState()
    return lambda: phases.phase(pods.decode_event(line)[1], phases.plan(ctx), task, now, last)
