"""Statements of Snowflake's warehouses, over its SQL API."""

from __future__ import annotations

from propfan.plugins.connectors.extras import offered
from propfan.plugins.connectors.snowflake.connector import SnowflakeConnector

connectors = offered("snowflake", "jwt", SnowflakeConnector)
