"""What every connector must hold, on a login node in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.testing import task_template
from propfan.pluginmachinery.testing.connector_contract import ConnectorContract, JobStory
from propfan.pluginmachinery.testing.connector_fakes import connector_task
from propfan.plugins.connectors.slurm.connector import SlurmConnector
from tests.unit.plugins.connectors.slurm import cluster as clusters
from tests.unit.plugins.connectors.slurm.cluster import script_task

FUNCTION = task_template(
    "slurm_fn",
    image="unused",
    args=("sh", "-c", 'echo "$0 $FLYTE_FAIL_ON_ERROR"', "a function"),
    custom={"ssh_config": {"host": "cluster"}, "script": "#!/bin/bash\n{task.fn}\n"},
)


class TestContract(ConnectorContract):
    connector_class = SlurmConnector
    stories = (
        JobStory("script", script_task("#!/bin/bash\necho hi"), RemotePhase.SUCCEEDED, message="COMPLETED"),
        JobStory(
            "script that fails",
            script_task("#!/bin/bash\necho it broke >&2; exit 3"),
            RemotePhase.FAILED,
            message="exit code 3 (NonZeroExitCode)",
        ),
        JobStory("function", connector_task(FUNCTION), RemotePhase.SUCCEEDED),
    )

    @pytest.fixture
    def setup_ctx(self, tmp_path: Path) -> Iterator[ConnectorSetup]:
        with clusters.running(tmp_path) as cluster:
            yield cluster.setup()
