"""Databricks: Spark functions and notebooks as one-time runs of its Jobs API, version 2.1."""

from __future__ import annotations

from propfan.plugins.connectors.databricks.connector import DatabricksConnector

connectors = (DatabricksConnector,)
