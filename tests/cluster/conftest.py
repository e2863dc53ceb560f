"""Fixtures of the tests that need a real cluster: one control plane for all, a namespace for each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import programs
from tests.cluster.control_plane import ControlPlane

HERE = Path(__file__).parent
REQUIRE = "PROPFAN_REQUIRE_CLUSTER"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def built_programs() -> None:
    """All programs of a cluster; what can not be built skips, or fails where the environment demands a cluster."""
    try:
        for module in programs.CLUSTER_MODULES:
            programs.build(module)
    except programs.UnavailableError as error:
        if os.environ.get(REQUIRE, "") not in ("", "0"):
            raise
        pytest.skip(f"{error} ({REQUIRE}=1 makes this a failure)")


@pytest.fixture(scope="session")
def control_plane(built_programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A cluster with two nodes, that all tests share; its logs stay in pytest's temporary folder."""
    with ControlPlane(tmp_path_factory.mktemp("cluster") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace of the test's own."""
    name = control_plane.create_namespace()
    yield name
    control_plane.delete_namespace(name)
