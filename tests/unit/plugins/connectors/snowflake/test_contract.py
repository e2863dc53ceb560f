from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.testing import ConnectorContract, JobStory
from propfan.plugins.connectors.snowflake.connector import SnowflakeConnector
from tests.unit.plugins.connectors.snowflake.rig import query, served


class TestContract(ConnectorContract):
    connector_class = SnowflakeConnector
    stories = (
        JobStory("selects", query("select name from pets"), RemotePhase.SUCCEEDED, message="executed successfully"),
        JobStory(
            "inserts",
            query("insert into pets values ('ida', 1)", has_results=False),
            RemotePhase.SUCCEEDED,
        ),
        JobStory("of Flyte 1", query("select name from pets", is_v1=True), RemotePhase.SUCCEEDED),
        JobStory(
            "has no such table",
            query("select * from nowhere"),
            RemotePhase.FAILED,
            message="000904 (42000): SQL compilation error: no such table: nowhere",
        ),
    )

    @pytest.fixture
    async def setup_ctx(self, anyio_backend: str) -> AsyncIterator[ConnectorSetup]:
        async with served() as (fake, setup):
            fake.looks = 2
            yield setup
