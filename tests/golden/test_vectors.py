"""Every recorded case in ``data/`` gives what was recorded."""

from __future__ import annotations

from typing import Final

import pytest

from tests.golden import runner

JOBS: Final = ("clustered", "dask", "mpi", "pytorch", "ray", "spark", "tensorflow")
COUNTS: Final = {
    "podspec": 300,
    "podphase": 400,
    "template": 400,
    "tasklog": 300,
    "names": 600,
    "execmeta": 300,
    "connector": 300,
    **{f"{kind}_{area}": 300 for kind in JOBS for area in ("build", "phase")},
}


def test_every_vector_file_is_counted() -> None:
    assert {runner.area_of(f) for f in runner.vector_files([runner.DATA])} == COUNTS.keys()


@pytest.mark.parametrize("area", COUNTS)
def test_area_gives_what_was_recorded(area: str) -> None:
    [report] = runner.run_paths([runner.DATA], area=area)
    assert len(report.outcomes) == COUNTS[area]
    assert not report.runner_missing
    assert not report.failures, "\n".join(runner.explain(o) for o in report.failures[:3])
