"""What a connector runs: task types with a version each."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

MAX_VERSION: Final = 2**31 - 1
"""``TaskCategory.version`` is an int32 on the wire."""


class TaskCategory(msgspec.Struct, frozen=True, order=True):
    """A task type and its version (``TaskCategory`` on the wire). Versions do not fall back to each other.

    Attributes:
        name: ``TaskTemplate.type``.
        version: ``TaskTemplate.task_type_version``, 0 to ``MAX_VERSION``.
    """

    name: str
    version: Annotated[int, Meta(ge=0, le=MAX_VERSION)] = 0

    def __str__(self) -> str:
        return f"{self.name} (version {self.version})"
