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

OWN_EXIT: Final = "a program's own exit code"
SUCCEEDED: Final = "a job that has succeeded"

_OF_PHASE: Final = {".phase_info.phase", ".phase_info.reason", ".phase_info.version", ".phase_info.info"}
_OF_ERROR: Final = {".phase_info.error.code", ".phase_info.error.kind"}
_OF_CONDITION: Final = {
    "Created": "PhaseQueued",
    "Suspended": "PhaseQueued",
    "Running": "PhaseRunning",
    "Restarting": "PhaseRunning",
    "Succeeded": "PhaseSuccess",
    "Failed": "PhaseRetryableFailure",
}
_NOT_BEGUN: Final = "kubeflow operator hasn't updated the "


def compare_phases(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend

    - knows no phase for a suspended job, or takes its operator for stuck; a suspended JobSet runs;
    - charges the system with the exit code of a program;
    - fails a job that has succeeded when a pod of it fails afterwards.
    """
    found = jobs.compare(case, expected, actual)
    if not found or "phase_info" not in actual:
        return found
    true = [c for c in case["resource"]["status"].get("conditions") or () if c["status"] == "True"]
    newest = max(true, key=lambda c: c["lastTransitionTime"], default={"type": ""})["type"]
    verdict, backend = actual["phase_info"], expected["phase_info"]
    waits = verdict["phase"] == "PhaseQueued" and "uspended" in verdict["reason"]
    if expected.get("error", {}).get("message", "").startswith(_NOT_BEGUN):
        was_suspended = any(c["type"] == "Suspended" for c in true)
        return caused(found, SUSPENDED) if was_suspended and verdict["phase"] == _OF_CONDITION[newest] else found
    if newest == "Suspended" and waits and backend["phase"] in ("PhaseUndefined", "PhaseRunning"):
        return caused(found, SUSPENDED, _OF_PHASE)
    return of_ends(found, expected, actual, has_succeeded=newest == "Succeeded")


def of_ends(
    found: list[Difference], expected: Mapping[str, Any], actual: Mapping[str, Any], *, has_succeeded: bool
) -> list[Difference]:
    """The last two of ``compare_phases``."""
    backend, verdict = expected.get("phase_info") or {}, actual.get("phase_info") or {}
    if has_succeeded and verdict.get("phase") == "PhaseSuccess" and backend.get("phase", "").endswith("Failure"):
        return caused(found, SUCCEEDED, {d.path for d in found if d.path.startswith(".phase_info.")})
    error, charged = backend.get("error") or {}, verdict.get("error") or {}
    if (error.get("code"), error.get("kind"), charged.get("kind")) == ("Interrupted", "SYSTEM", "USER"):
        return caused(found, OWN_EXIT, _OF_ERROR)
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


def caused(found: Iterable[Difference], cause: str, paths: Iterable[str] | None = None) -> list[Difference]:
    return [msgspec.structs.replace(d, cause=cause) if paths is None or d.path in paths else d for d in found]
