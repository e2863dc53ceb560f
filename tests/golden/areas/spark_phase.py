"""A SparkApplication's status to a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from propfan.plugins.spark import entry
from tests.golden.areas import jobs
from tests.golden.areas.job_differences import OWN_EXIT, SUSPENDED, caused
from tests.golden.comparison import Difference

run = jobs.phases(entry, has_process=False)


def compare(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend says of a suspended application that it runs, and charges the system with the driver's exit code."""
    found = jobs.compare(case, expected, actual)
    verdict, backend = actual["phase_info"], expected["phase_info"]
    state = ((case["resource"].get("status") or {}).get("applicationState") or {}).get("state")
    if state in {"SUSPENDING", "SUSPENDED", "RESUMING"} and verdict["phase"] == "PhaseQueued":
        return caused(found, SUSPENDED, {".phase_info.phase", ".phase_info.reason", ".phase_info.version"})
    error, charged = backend["error"] or {}, verdict["error"] or {}
    if (error.get("code"), error.get("kind"), charged.get("kind")) == ("Interrupted", "SYSTEM", "USER"):
        return caused(found, OWN_EXIT, {".phase_info.error.code", ".phase_info.error.kind"})
    return found
