from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from propfan.plugins.connectors.slurm.connector import SlurmConnector
from tests.unit.plugins.connectors.slurm import cluster as clusters
from tests.unit.plugins.connectors.slurm.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with clusters.running(tmp_path) as made:
        yield made


@pytest.fixture
async def connector(anyio_backend: str, cluster: Cluster) -> AsyncIterator[SlurmConnector]:
    made = SlurmConnector(cluster.setup())
    yield made
    await made.close()
