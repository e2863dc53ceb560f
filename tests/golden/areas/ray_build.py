"""From a task template to its RayJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.plugins.ray import entry
from tests.golden.areas import jobs
from tests.golden.comparison import ABSENT, Difference

MEMORY_OF_WORKERS: Final = "workers' MEMORY_* variables told the cpu"
TTL_OF_NOTHING: Final = "a ttl without a shutdown, which KubeRay refuses"

_TOLD: Final = {("requests.cpu", "requests.memory"), ("limits.cpu", "limits.memory")}

run = jobs.builds(entry)


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    found = jobs.compare(case_input, expected, actual)
    return [msgspec.structs.replace(d, cause=d.cause or _cause(d, expected["resource"])) for d in found]


def _cause(difference: Difference, expected: Mapping[str, Any]) -> str:
    if difference.path.endswith(".valueFrom.resourceFieldRef.resource"):
        return MEMORY_OF_WORKERS if (difference.expected, difference.actual) in _TOLD else ""
    is_ttl = difference.path == ".resource.spec.ttlSecondsAfterFinished" and difference.actual is ABSENT
    return TTL_OF_NOTHING if is_ttl and "shutdownAfterJobFinishes" not in expected["spec"] else ""
