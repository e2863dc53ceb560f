"""What Go's API types write although nothing was set: members that propfan leaves out of the objects it builds.

A member counts as residue at exactly these places with exactly these values, and only where propfan's object has no
member of that name. Any other value there is compared as usual.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_NO_RAY_STATUS: Final = {
    "rayClusterStatus": {"desiredCPU": "0", "desiredGPU": "0", "desiredMemory": "0", "desiredTPU": "0", "head": {}},
    "rayJobInfo": {},
}
_NO_SPARK_STATUS: Final = {
    "applicationState": {"state": ""},
    "driverInfo": {},
    "lastSubmissionAttemptTime": None,
    "terminationTime": None,
}

RESIDUE: Final[Mapping[str, tuple[tuple[str, Any], ...]]] = {
    "SparkApplication": (
        ("status", _NO_SPARK_STATUS),
        ("spec.deps", {}),
        ("spec.mainApplicationFile", None),
    ),
    "RayJob": (("status", _NO_RAY_STATUS), ("spec.rayClusterSpec.workerGroupSpecs[].scaleStrategy", {})),
    "DaskJob": (("status", {"endTime": None, "jobStatus": "", "startTime": None}), ("spec.cluster.status", {})),
    "PyTorchJob": (("status", {}), ("spec.runPolicy", {})),
    "TFJob": (("status", {}), ("spec.runPolicy", {})),
    "MPIJob": (("status", {}), ("spec.runPolicy", {})),
    "JobSet": (("status", {"restarts": 0}),),
}
"""By kind: path of a member, and its empty value."""

IN_PODS: Final[tuple[tuple[re.Pattern[str], Any], ...]] = (
    (re.compile(r"(^|.+\.)metadata"), {}),
    (re.compile(r".+[cC]ontainers\[\]\.resources"), {}),
    (re.compile(r".+\.(spec|template)\.containers"), None),
    (re.compile(r".+\.resourceFieldRef\.divisor"), "0"),
)
"""The same for the pods in all of these kinds."""


def without_residue(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recorded object without its residue; as it is when its kind is not among these."""
    kind = str(expected.get("kind"))
    if kind not in RESIDUE:
        return expected
    cleaned: Mapping[str, Any] = _clean(expected, actual, "", RESIDUE[kind])
    return cleaned


def _clean(expected: Any, actual: Any, path: str, of_kind: tuple[tuple[str, Any], ...]) -> Any:
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        kept = {}
        for name, value in expected.items():
            inner = f"{path}.{name}" if path else name
            if name in actual:
                kept[name] = _clean(value, actual[name], inner, of_kind)
            elif not _is_residue(inner, value, of_kind):
                kept[name] = value
        return kept
    if isinstance(expected, list) and isinstance(actual, list):
        both = [_clean(one, other, f"{path}[]", of_kind) for one, other in zip(expected, actual, strict=False)]
        return both + expected[len(both) :]
    return expected


def _is_residue(path: str, value: Any, of_kind: tuple[tuple[str, Any], ...]) -> bool:
    if (path, value) in of_kind:
        return True
    return any(value == empty and pattern.fullmatch(path) for pattern, empty in IN_PODS)
