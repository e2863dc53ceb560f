"""Only what is meant counts as a difference on purpose."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import pytest

from tests.golden import runner
from tests.golden.areas import dask_build, job_differences, jobs, mpi_build, ray_phase, spark_build, tensorflow_phase
from tests.golden.runner import Case


def case_of(area: str, cause: str) -> tuple[Case, dict[str, Any]]:
    """The first case that differs for this cause alone, and what propfan answers."""
    module = importlib.import_module(f"tests.golden.areas.{area}")
    cases = runner.read_cases(runner.DATA / f"{area}.jsonl.gz")
    case = next(case for case in cases if runner.run_case(case, module).causes == {cause})
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


@pytest.mark.parametrize("area", ["pytorch_build", "clustered_build"])
def test_another_value_of_a_variable_named_twice_is_no_difference_on_purpose(area: str) -> None:
    case, answer = case_of(area, jobs.REPEATED)
    assert unexcused(jobs.compare, case, answer) == []
    changed = copy.deepcopy(answer)
    change_variables(changed["resource"]["spec"])
    assert unexcused(jobs.compare, case, changed)
    assert unexcused(jobs.compare, case, {**answer, "resource": case.output["resource"]}), "twice is not once"


def change_variables(value: Any) -> None:
    """Gives every variable of a container a value that it has not."""
    if isinstance(value, list):
        for item in value:
            change_variables(item)
    elif isinstance(value, dict):
        for variable in value.get("env") or ():
            variable["value"] = "another"
        for item in value.values():
            change_variables(item)


def test_only_a_missing_file_and_member_count_as_those_that_definitions_refuse() -> None:
    case, answer = case_of("spark_build", spark_build.NO_FILE)
    assert unexcused(spark_build.compare, case, answer) == []
    answer["resource"]["spec"]["mainApplicationFile"] = "local:///another.jar"
    assert unexcused(spark_build.compare, case, answer) == [".resource.spec.mainApplicationFile"]
    case, answer = case_of("dask_build", dask_build.NO_MEMBER)
    assert unexcused(dask_build.compare, case, answer) == []
    answer["resource"]["spec"]["cluster"]["metadata"] = {"labels": {"a": "b"}}
    assert unexcused(dask_build.compare, case, answer)


def test_a_state_of_newer_operators_is_excused_only_with_its_own_phase() -> None:
    case, answer = case_of("ray_phase", ray_phase.NEWER_STATES)
    assert unexcused(ray_phase.compare, case, answer) == []
    answer["phase_info"]["phase"] = "PhaseSuccess"
    assert unexcused(ray_phase.compare, case, answer)
