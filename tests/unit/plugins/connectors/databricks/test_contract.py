from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.testing import ConnectorContract, JobStory
from propfan.plugins.connectors.databricks.connector import DatabricksConnector
from tests.unit.plugins.connectors.databricks.fake_databricks import CANCELLED, ended, live
from tests.unit.plugins.connectors.databricks.rig import function, named, served

COURSES = {
    "fails": [live("QUEUED"), ended("FAILED", "RUN_EXECUTION_ERROR", "CLIENT_ERROR", "Workload failed")],
    "loses-its-machines": [live("RUNNING"), ended("FAILED", "CLOUD_FAILURE", "CLOUD_FAILURE", "spot instance lost")],
    "is-cancelled": [live("RUNNING"), CANCELLED],
}


class TestContract(ConnectorContract):
    connector_class = DatabricksConnector
    stories = (
        JobStory("succeeds", function(), RemotePhase.SUCCEEDED),
        JobStory("fails", named("fails"), RemotePhase.FAILED, message="ZeroDivisionError: division by zero"),
        JobStory(
            "loses its machines",
            named("loses-its-machines"),
            RemotePhase.RETRYABLE_FAILED,
            message="spot instance lost",
        ),
        JobStory("is cancelled", named("is-cancelled"), RemotePhase.ABORTED, message="USER_CANCELED"),
    )

    @pytest.fixture
    async def setup_ctx(self, anyio_backend: str) -> AsyncIterator[ConnectorSetup]:
        async with served() as (fake, setup):
            fake.courses.update(COURSES)
            fake.outputs["fails"] = {"error": "ZeroDivisionError: division by zero", "error_trace": "Traceback ..."}
            yield setup
