"""BigQuery: queries as jobs of its REST API, version 2."""

from __future__ import annotations

from propfan.plugins.connectors.bigquery.connector import BigQueryConnector
from propfan.plugins.connectors.extras import offered

connectors = offered("bigquery", "google.auth", BigQueryConnector)
