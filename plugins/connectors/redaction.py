"""Secrets in texts of others that become messages: what a server or a driver says may repeat what it was sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "***"
"""What is shown in the place of a secret."""


def redacted(text: str, secrets: Iterable[str]) -> str:
    """``text`` without the secrets; the longest go first, since one may be the beginning of another."""
    for secret in sorted(secrets, key=len, reverse=True):
        if secret:
            text = text.replace(secret, HIDDEN)
    return text
