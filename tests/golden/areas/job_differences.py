"""Where propfan differs on purpose about jobs, recognised by what a case holds."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from flyteidl2.core import tasks_pb2

from propfan._speedups import structs
from tests.golden.areas import jobs
from tests.golden.comparison import Difference

SUSPENDED: Final = "a suspended job waits"
SLOTS: Final = "slots of an MPI job"

_OF_PHASE: Final = {".phase_info.phase", ".phase_info.reason", ".phase_info.version", ".phase_info.info"}
_NOT_BEGUN: Final = "kubeflow operator hasn't updated the "


def compare_suspended(
    case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]
) -> list[Difference]:
    """The backend knows no phase for a suspended job, or takes its operator for stuck; a suspended JobSet runs."""
    found = jobs.compare(case, expected, actual)
    suspended = [c for c in _true_conditions(case) if c["type"] == "Suspended"]
    if not suspended:
        return found
    if expected.get("error", {}).get("message", "").startswith(_NOT_BEGUN) and "error" not in actual:
        return caused(found, SUSPENDED)
    verdict = actual.get("phase_info", {})
    waits = verdict.get("phase") == "PhaseQueued" and "uspended" in verdict.get("reason", "")
    if _newest(case) in suspended and waits and expected["phase_info"]["phase"] in ("PhaseUndefined", "PhaseRunning"):
        return caused(found, SUSPENDED, _OF_PHASE)
    return found


def compare_slots(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend does not read ``slots`` of the second version of the message."""
    template = tasks_pb2.TaskTemplate.FromString(base64.b64decode(case["task_template"]))
    slots = structs.to_value(template.custom.SerializeToString()).get("slots")
    path = ".resource.spec.slotsPerWorker"
    return [
        msgspec.structs.replace(d, cause=SLOTS) if (d.path, d.expected, d.actual) == (path, 1, slots) else d
        for d in jobs.compare(case, expected, actual)
    ]


def _true_conditions(case: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [c for c in case["resource"]["status"].get("conditions") or () if c["status"] == "True"]


def _newest(case: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return max(_true_conditions(case), key=lambda c: c["lastTransitionTime"], default=None)


def caused(found: Iterable[Difference], cause: str, paths: Iterable[str] | None = None) -> list[Difference]:
    return [msgspec.structs.replace(d, cause=cause) if paths is None or d.path in paths else d for d in found]
