from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.testing import ConnectorContract, JobStory
from propfan.plugins.connectors.bigquery.connector import BigQueryConnector
from tests.unit.plugins.connectors.bigquery.rig import query, served


class TestContract(ConnectorContract):
    connector_class = BigQueryConnector
    stories = (
        JobStory("selects", query("SELECT name FROM pets"), RemotePhase.SUCCEEDED),
        JobStory(
            "inserts",
            query("INSERT INTO pets VALUES ('ida', 1)", has_results=False),
            RemotePhase.SUCCEEDED,
        ),
        JobStory(
            "has no such table", query("SELECT * FROM nothing"), RemotePhase.FAILED, message="(invalidQuery at query)"
        ),
        JobStory(
            "is broken off by the vendor",
            query("SELECT 'backend'"),
            RemotePhase.RETRYABLE_FAILED,
            message="(backendError)",
        ),
        JobStory("is cancelled by somebody", query("SELECT 'cancel'"), RemotePhase.ABORTED, message="(stopped)"),
    )

    @pytest.fixture
    async def setup_ctx(
        self, anyio_backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> AsyncIterator[ConnectorSetup]:
        """Without an account of the machine's own."""
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        async with served() as (fake, setup):
            fake.job_errors["'backend'"] = {"reason": "backendError", "message": "Backend error. Job aborted."}
            fake.job_errors["'cancel'"] = {"reason": "stopped", "message": "Job execution was cancelled"}
            yield setup
