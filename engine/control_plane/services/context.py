"""What a method is told of its request beside the message."""

from __future__ import annotations

from typing import Any, TypeAlias

from connectrpc.request import RequestContext

Context: TypeAlias = RequestContext[Any, Any]
