"""A SparkApplication's status to a phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from propfan.plugins.spark import entry
from tests.golden.areas import jobs
from tests.golden.areas.job_differences import SUSPENDED
from tests.golden.comparison import Difference

run = jobs.phases(entry, has_process=False)


def compare(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend says of a suspended application that it runs."""
    found = jobs.compare(case, expected, actual)
    state = ((case["resource"].get("status") or {}).get("applicationState") or {}).get("state")
    if state not in {"SUSPENDING", "SUSPENDED", "RESUMING"}:
        return found
    waits = {".phase_info.phase", ".phase_info.reason", ".phase_info.version"}
    return [msgspec.structs.replace(d, cause=SUSPENDED) if d.path in waits else d for d in found]
