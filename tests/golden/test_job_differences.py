"""Only what is meant counts as a difference on purpose."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.golden import runner
from tests.golden.areas import job_differences, mpi_build, tensorflow_phase
from tests.golden.runner import Case


def case_of(area: str, cause: str) -> tuple[Case, dict[str, Any]]:
    """The first case that differs for this cause alone, and what propfan answers."""
    [report] = runner.run_paths([runner.DATA], area=area)
    case = next(o.case for o in report.outcomes if o.causes == {cause})
    module = __import__(f"tests.golden.areas.{area}", fromlist=["run"])
    return case, dict(module.run(case.input))


def unexcused(compare: Any, case: Case, answer: dict[str, Any]) -> list[str]:
    return [d.path for d in compare(case.input, case.output, answer) if not d.cause]


@pytest.mark.parametrize(
    ("area", "cause", "path", "value"),
    [
        ("pytorch_phase", job_differences.SUSPENDED, ("phase_info", "phase"), "PhaseRunning"),
        ("pytorch_phase", job_differences.SUSPENDED, ("completion_time",), "2020-01-01T00:00:00Z"),
        ("clustered_phase", job_differences.SUSPENDED, ("phase_info", "cleanup_on_failure"), True),
        ("clustered_phase", job_differences.OWN_EXIT, ("phase_info", "error", "message"), "another"),
        ("pytorch_phase", job_differences.SUCCEEDED, ("phase_info", "phase"), "PhaseQueued"),
    ],
)
def test_another_phase_is_no_difference_on_purpose(area: str, cause: str, path: tuple[str, ...], value: object) -> None:
    case, answer = case_of(area, cause)
    assert unexcused(job_differences.compare_phases, case, answer) == []
    changed = copy.deepcopy(answer)
    place = changed
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    assert unexcused(job_differences.compare_phases, case, changed)


def test_other_slots_than_the_tasks_are_no_difference_on_purpose() -> None:
    case, answer = case_of("mpi_build", job_differences.SLOTS)
    assert unexcused(mpi_build.compare, case, answer) == []
    answer["resource"]["spec"]["slotsPerWorker"] += 1
    assert unexcused(mpi_build.compare, case, answer) == [".resource.spec.slotsPerWorker"]


def test_a_link_to_another_pod_is_no_difference_on_purpose() -> None:
    case, answer = case_of("tensorflow_phase", tensorflow_phase.POD_NAMES)
    assert unexcused(tensorflow_phase.compare, case, answer) == []
    logs = answer["phase_info"]["info"]["logs"]
    index = next(index for index, log in enumerate(logs) if "-ps-0" in log["uri"])
    logs[index] = {**logs[index], "uri": logs[index]["uri"].replace("-ps-0", "-ps-7")}
    assert unexcused(tensorflow_phase.compare, case, answer)
