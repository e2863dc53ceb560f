"""Commands in this process, for those that need no engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import structlog
from click.testing import CliRunner, Result

from propfan.engine.cli.app import cli

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Runs ``propfan ARGUMENTS``; what only tests see of a terminal's width and settings is taken away."""
    for name in ("PROPFAN_DATA_DIR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    runner = CliRunner()

    def run(*arguments: object) -> Result:
        result = runner.invoke(cli, [*map(str, arguments)], prog_name="propfan")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    yield run
    structlog.reset_defaults()
