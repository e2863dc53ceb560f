"""AWS for the tests of its connectors: started once, empty for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from propfan.pluginmachinery.connector import ConnectorSetup
from tests.unit.plugins.connectors.aws.amazon import Amazon, amazon
from tests.unit.plugins.connectors.aws.rig import setup_at


@pytest.fixture(scope="session")
def running() -> Iterator[Amazon]:
    with amazon() as made:
        yield made


@pytest.fixture
def aws(running: Amazon, monkeypatch: pytest.MonkeyPatch) -> Amazon:
    """Nothing of the machine's own settings of AWS counts."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    running.reset()
    return running


@pytest.fixture
def setup_ctx(aws: Amazon) -> ConnectorSetup:
    return setup_at(aws)
