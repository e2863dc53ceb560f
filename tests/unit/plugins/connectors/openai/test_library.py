"""The vendor's library is an extra, and is imported when it is first needed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

import pytest

from propfan.plugins.connectors.extras import offered
from propfan.plugins.connectors.openai import ChatConnector


def test_naming_the_connectors_imports_no_library() -> None:
    program = "import sys, propfan.plugins.connectors.openai; print('openai' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]


def test_without_the_library_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec

    def without_openai(name: str, *more: Any) -> Any:
        return None if name == "openai" else found(name, *more)

    monkeypatch.setattr("propfan.plugins.connectors.extras.find_spec", without_openai)
    assert offered("openai", "openai", ChatConnector) == ()
