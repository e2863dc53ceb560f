"""Fixtures of the tests that need a real cluster: one control plane for all, a namespace for each."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import cache, operators, programs
from tests.cluster.control_plane import ControlPlane

HERE = Path(__file__).parent
OPERATORS = "PROPFAN_OPERATORS"
REQUIRE = "PROPFAN_REQUIRE_CLUSTER"
SHOWN_LINES = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the parts of the cluster said last."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("control_plane")
    if report.failed and cluster is not None:
        for log in sorted((cluster.directory / "logs").glob("*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-SHOWN_LINES:]
            report.sections.append((f"end of {log}", "\n".join(lines)))
    return report


def is_required() -> bool:
    return os.environ.get(REQUIRE, "") not in ("", "0")


def check_operators_are_wanted() -> None:
    """Raises ``UnavailableError``: they take half an hour, and once as long to build."""
    if not is_required() and os.environ.get(OPERATORS, "") in ("", "0"):
        raise cache.UnavailableError(f"operators run only when they are asked for: {OPERATORS}=1, or make operators")


@contextmanager
def skipping_when_unavailable() -> Iterator[None]:
    """What can not be made here skips, or fails where the environment demands a cluster."""
    try:
        yield
    except cache.UnavailableError as error:
        if is_required():
            raise
        pytest.skip(f"{error} ({REQUIRE}=1 makes this a failure)")


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster with two nodes, that all tests share; its logs stay in pytest's temporary folder."""
    with skipping_when_unavailable():
        for module in programs.CLUSTER_MODULES:
            programs.build(module)
    with ControlPlane(tmp_path_factory.mktemp("cluster") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    name = control_plane.create_namespace()
    yield name
    control_plane.delete_namespace(name)


def operator_fixture(name: str) -> Any:
    """The cluster of all tests with an operator that runs from the first test that asks for it to the last of all."""

    @pytest.fixture(scope="session", name=name)
    def running(control_plane: ControlPlane) -> Iterator[ControlPlane]:
        with skipping_when_unavailable():
            check_operators_are_wanted()
            operators.prepare(name)
        with operators.running_operator(control_plane, name):
            yield control_plane

    return running


kubeflow = operator_fixture("kubeflow")
jobset = operator_fixture("jobset")
ray = operator_fixture("ray")
spark = operator_fixture("spark")
dask = operator_fixture("dask")
