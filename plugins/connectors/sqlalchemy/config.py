"""What operators say about databases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from propfan.plugins.connectors.hosts import HostConfig


class DatabaseConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``connectors.sqlalchemy``.

    Attributes:
        dialects: What a task's URL may begin with.
        hosts: Servers that tasks may name.
        sqlite_folders: Folders below which SQLite's files lie; none leaves databases in memory only.
        statement_timeout_s: From then on a task's statement is cancelled. Less than the service's
            ``timeouts.do-s``, so that the task is told.
        max_rows: A result with more fails the task: it is held in memory.
        max_bytes: Likewise, of a result's columns and of a database that is downloaded.
    """

    dialects: Sequence[str] = ("postgresql", "mysql", "mariadb", "mssql", "oracle", "sqlite")
    hosts: HostConfig = HostConfig()
    sqlite_folders: Sequence[str] = ()
    statement_timeout_s: Annotated[float, Meta(gt=0)] = 50.0
    max_rows: Annotated[int, Meta(ge=1)] = 1_000_000
    max_bytes: Annotated[int, Meta(ge=1024)] = 256 * 1024 * 1024
