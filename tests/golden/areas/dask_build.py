"""From a task template to its DaskJob."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.pluginmachinery import names
from propfan.plugins.dask import entry
from tests.golden.areas import jobs
from tests.golden.comparison import ABSENT, RANDOM_NAME, Difference

LONG_NAME: Final = "a name longer than the operator takes"
ODD_NAME: Final = "a name of letters that the operator does not take"

NO_MEMBER: Final = "metadata of a DaskJob's cluster, which its definition has not"

_CLUSTER_METADATA: Final = ".resource.spec.cluster.metadata"
_LONGEST: Final = 53
_TWO_NAMES: Final = f"[BadTaskSpecification] invalid TaskSpecification, container [{RANDOM_NAME}] not defined"
_REFUSAL: Final = "[BadTaskSpecification] invalid TaskSpecification: the dask operator takes no job called"
_NAMES: Final = {
    ".created_metadata.name",
    ".resource.spec.cluster.spec.scheduler.service.selector.dask.org/cluster-name",
}

run = jobs.builds(entry)


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """The backend invents a new container name for each of two builds where the generated one is none.

    It writes the job's own labels and annotations again where DaskJobs have no such member.
    """
    found = [
        msgspec.structs.replace(d, cause=NO_MEMBER) if d.path == _CLUSTER_METADATA and d.actual is ABSENT else d
        for d in jobs.compare(case_input, expected, actual)
    ]
    name = case_input["metadata"]["task_execution_id"]["generated_name"]
    refused = _message(actual).startswith(_REFUSAL)
    if refused or (not names.is_dns1123_label(name) and _message(expected) == _TWO_NAMES):
        return [msgspec.structs.replace(d, cause=ODD_NAME) for d in found]
    if len(name) <= _LONGEST:
        return found
    return [msgspec.structs.replace(d, cause=LONG_NAME) if d.path in _NAMES else d for d in found]


def _message(output: Mapping[str, Any]) -> str:
    message: str = output["resource"].get("error", {}).get("message", "")
    return message
