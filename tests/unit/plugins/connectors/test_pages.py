"""What holds for all pages on connectors."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest

from propfan.pluginmachinery.config import decode_config
from propfan.plugins.connectors.aws.config import AwsConfig
from propfan.plugins.connectors.bigquery.connector import BigQueryConfig
from propfan.plugins.connectors.databricks.connector import DatabricksConfig
from propfan.plugins.connectors.openai.account import OpenAIConfig
from propfan.plugins.connectors.sensor.config import SensorConfig
from propfan.plugins.connectors.slurm.config import SlurmConfig
from propfan.plugins.connectors.snowflake.accounts import SnowflakeConfig
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig
from propfan.plugins.connectors.webhook.connector import WebhookConfig
from tests.unit.plugins.connectors.pages import NAMES, Page

SECTIONS: Final[dict[str, type[Any]]] = {
    "aws": AwsConfig,
    "bigquery": BigQueryConfig,
    "databricks": DatabricksConfig,
    "openai": OpenAIConfig,
    "sensor": SensorConfig,
    "slurm": SlurmConfig,
    "snowflake": SnowflakeConfig,
    "sqlalchemy": DatabaseConfig,
    "webhook": WebhookConfig,
}
SHOWN_ELSEWHERE: Final = {"flyte1", "flyte2"}
"""Of Databricks: in a block of their own."""


def names(kind: type[Any]) -> dict[str, Any]:
    """Of all settings, those of sections within with theirs."""
    fields = msgspec.structs.fields(kind)
    return {
        field.encode_name: names(field.type)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
        else None
        for field in fields
        if field.name not in SHOWN_ELSEWHERE
    }


def printed_names(printed: Any, known: dict[str, Any]) -> dict[str, Any]:
    return {
        name: printed_names(value, inner) if (inner := known.get(name)) else None for name, value in printed.items()
    }


@pytest.mark.parametrize("name", SECTIONS)
def test_settings_are_all_there_with_their_defaults(name: str) -> None:
    kind, printed = SECTIONS[name], Page(name).settings()
    assert msgspec.to_builtins(decode_config(kind, printed, "")) == msgspec.to_builtins(kind())
    assert printed_names(printed, names(kind)) == names(kind)


def test_each_connector_has_its_page() -> None:
    assert sorted(SECTIONS) == NAMES
