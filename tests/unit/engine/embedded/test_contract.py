from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from propfan.engine.cluster import TASK_ACTION, Cluster, Kind
from propfan.engine.embedded import EmbeddedCluster
from tests.contract.cluster_contract import ClusterContract


class TestEmbeddedCluster(ClusterContract):
    @pytest.fixture(params=["memory", "file"])
    async def cluster(self, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
        async with EmbeddedCluster.open(tmp_path / "cluster.db" if request.param == "file" else None) as cluster:
            yield cluster

    @pytest.fixture
    def namespace(self) -> str:
        return "default"

    @pytest.fixture
    def kind(self) -> Kind:
        return TASK_ACTION
