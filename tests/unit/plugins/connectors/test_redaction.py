"""Secrets in texts of others."""

from __future__ import annotations

import pytest

from propfan.plugins.connectors.redaction import redacted


@pytest.mark.parametrize("secrets", [["abc", "abcdef"], ["abcdef", "abc"], ["", "abcdef"]])
def test_a_secret_that_begins_another_leaves_nothing_of_it(secrets: list[str]) -> None:
    assert redacted("user abcdef is unknown", secrets) == "user *** is unknown"
