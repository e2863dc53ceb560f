"""A RayJob's status to a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.plugins.ray import entry
from tests.golden.areas import job_differences, jobs
from tests.golden.comparison import Difference

NEWER_STATES: Final = "a state of newer operators was an error"

_PHASES: Final = {
    "Retrying": "PhaseInitializing",
    "ValidationFailed": "PhasePermanentFailure",
    "Waiting": "PhaseInitializing",
}
"""By state."""

run = jobs.phases(entry)


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend fails a job that has succeeded when its head fails, and charges the system with the head's own end."""
    status = case_input["resource"].get("status") or {}
    found = jobs.compare(case_input, expected, actual)
    found = job_differences.of_ends(
        found, expected, actual, has_succeeded=status.get("jobDeploymentStatus") == "Complete"
    )
    state, verdict = status.get("jobDeploymentStatus"), actual.get("phase_info") or {}
    is_new = (expected.get("error") or {}).get("message") == f"unknown job deployment status: {state}"
    if is_new and verdict.get("phase") == _PHASES.get(state or ""):
        return [msgspec.structs.replace(difference, cause=NEWER_STATES) for difference in found]
    return found
