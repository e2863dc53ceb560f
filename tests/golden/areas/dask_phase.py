"""A DaskJob's status to a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from propfan.plugins.dask import entry
from tests.golden.areas import job_differences, jobs
from tests.golden.comparison import Difference

run = jobs.phases(entry, has_process=False)


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend fails a job that has succeeded when its runner fails, and charges the system with the runner's own end."""
    status = case_input["resource"].get("status") or {}
    found = jobs.compare(case_input, expected, actual)
    return job_differences.of_ends(found, expected, actual, has_succeeded=status.get("jobStatus") == "Successful")
