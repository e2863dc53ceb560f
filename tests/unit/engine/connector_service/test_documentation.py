"""What the pages on connectors print is so."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml

from propfan.engine.connector_service import config as configs
from propfan.engine.connector_service.metrics import ServiceMetrics
from propfan.engine.connector_service.statuses import call_error
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError

DOCS = Path(__file__).parents[4] / "docs"
SERVICE = (DOCS / "connector-service.md").read_text()
WRITING = (DOCS / "writing-a-connector.md").read_text()


def test_the_settings_are_all_there_with_their_defaults(tmp_path: Path) -> None:
    (printed,) = re.findall(r"```yaml\n(host: 127.*?)```", SERVICE, re.DOTALL)
    (tmp_path / "service.yaml").write_text(printed)
    assert configs.load(tmp_path / "service.yaml", {}) == configs.ConnectorServiceConfig()
    keys = {field.encode_name for field in msgspec.structs.fields(configs.ConnectorServiceConfig)}
    assert set(yaml.safe_load(printed)) == keys


def test_the_metrics_are_all_there() -> None:
    names = {metric.name for metric in ServiceMetrics().registry.collect()}
    assert {name for name in names if f"`{name}" not in SERVICE} == set()


def test_errors_have_the_statuses_that_are_printed() -> None:
    rows = dict(re.findall(r"^\| `(\w+).*?\| ([A-Z_]+) \|", WRITING, re.MULTILINE))
    errors = (BadTaskSpecificationError("m"), PermanentError("c", "m"), TransientError("c", "m"), NotImplementedError())
    assert {type(error).__name__: call_error(error, "").code.name for error in errors} == rows
