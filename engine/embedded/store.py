"""The file beneath: objects as of the last commit, and the journal of events.

One SQLite database in WAL mode with ``synchronous=NORMAL``: what was committed survives the death
of the process at any instant; a power cut can lose the last commits but harms no older one. The
parts of an object have tables of their own, so that a change of status writes nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from propfan.pluginmachinery.errors import ConfigError, InUseError

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = 1886547824
"""ASCII ``prop``; tells this file from other SQLite databases (``PRAGMA application_id``)."""

BUSY_TIMEOUT_S: Final = 0.25
"""For readers that look into the file meanwhile; a flush never waits longer."""

CACHE_KIB: Final = 16_384
"""Pages in memory: those that status patches come back to."""

VACUUM_ABOVE_BYTES: Final = 64 * 2**20

_SCHEMA: Final = """
    BEGIN IMMEDIATE;
    CREATE TABLE object (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, metadata BLOB NOT NULL);
    CREATE TABLE body (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
    CREATE TABLE status (id INTEGER PRIMARY KEY, version INTEGER NOT NULL, status BLOB NOT NULL);
    CREATE TABLE event (seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload BLOB NOT NULL);
    CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL, seq INTEGER NOT NULL);
    INSERT INTO counter VALUES (1, 1, 0);
    PRAGMA application_id = 1886547824;
    PRAGMA user_version = 1;
    COMMIT;
"""


class JournalEvent(msgspec.Struct, frozen=True):
    """One entry of the journal. ``seq`` grows with each, with gaps, and is never used again."""

    seq: int
    key: str
    payload: bytes


class ObjectRow(msgspec.Struct, gc=False):
    """An object, or the parts of it that a commit writes; the others are ``None``.

    Attributes:
        version: The resourceVersion. That in ``metadata`` can be older, when the status changed since.
        body: As in ``StoredObject``, like ``status``.
    """

    id: int
    kind: str
    version: int
    metadata: bytes | None
    body: bytes | None
    status: bytes | None


class Changes(msgspec.Struct):
    """What one commit writes. In ``events`` a payload of ``None`` forgets all keys with that prefix."""

    objects: Sequence[ObjectRow]
    removed: Sequence[int]
    events: Sequence[tuple[str, bytes | None]]
    version: int


class Store:
    """Not to be used by two threads at once, but for ``checkpoint``.

    Attributes:
        version: The last resourceVersion that was committed.
    """

    def __init__(self, path: Path | None, connection: sqlite3.Connection, lock: int | None) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._wal = Path(f"{path}-wal")
        self.version: int
        self._seq: int
        self.version, self._seq = connection.execute("SELECT version, seq FROM counter").fetchone()

    @classmethod
    def open(cls, path: Path | None) -> Store:
        """Opens or creates the file; without a path nothing outlives the store.

        Raises:
            ConfigError: the file is in use, is no such database, or is of a newer version. It is
                left as it was.
        """
        if path is None:
            connection = _connect(":memory:")
            connection.executescript(_SCHEMA)
            return cls(None, connection, None)
        lock = _locked(path)
        try:
            is_new = _checked(path)
            connection = _connect(str(path))
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("PRAGMA wal_autocheckpoint = 0")
                connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
                if is_new:
                    connection.executescript(_SCHEMA)
                _vacuum(connection)
                return cls(path, connection, lock)
            except BaseException:
                connection.close()
                raise
        except (sqlite3.OperationalError, OSError) as error:
            os.close(lock)
            raise ConfigError("path", f"{path} can not be opened: {error}") from error
        except sqlite3.Error as error:
            os.close(lock)
            raise damaged(path, error) from error
        except BaseException:
            os.close(lock)
            raise

    def close(self) -> None:
        self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def load(self) -> Iterator[ObjectRow]:
        """All objects, oldest first.

        Raises:
            ConfigError: the file is damaged.
        """
        rows = self._connection.execute(
            "SELECT id, kind, version, metadata, body, status "
            "FROM object JOIN body USING (id) JOIN status USING (id) ORDER BY id"
        )
        try:
            for row in rows:
                yield ObjectRow(*row)
        except sqlite3.Error as error:
            raise damaged(self.path, error) from error

    def commit(self, changes: Changes) -> None:
        """All of it or nothing.

        Raises:
            sqlite3.Error: nothing was written; the store can be used on.
        """
        execute, executemany = self._connection.execute, self._connection.executemany
        seq = self._seq
        execute("BEGIN IMMEDIATE")
        try:
            rows = changes.objects
            if rows:
                executemany(
                    "INSERT OR REPLACE INTO object VALUES (?, ?, ?)",
                    [(row.id, row.kind, row.metadata) for row in rows if row.metadata is not None],
                )
                executemany(
                    "INSERT OR REPLACE INTO body VALUES (?, ?)",
                    [(row.id, row.body) for row in rows if row.body is not None],
                )
                executemany(
                    "INSERT OR REPLACE INTO status VALUES (?, ?, ?)",
                    [(row.id, row.version, row.status) for row in rows if row.status is not None],
                )
            if changes.removed:
                ids = [(row,) for row in changes.removed]
                for table in ("object", "body", "status"):
                    executemany(f"DELETE FROM {table} WHERE id = ?", ids)  # noqa: S608 - names above
            for is_removal, events in itertools.groupby(changes.events, key=lambda event: event[1] is None):
                if is_removal:
                    executemany(
                        "DELETE FROM event WHERE key >= ? AND key < ?", [_prefix_range(key) for key, _ in events]
                    )
                    continue
                numbered = [(number, *event) for number, event in enumerate(events, seq + 1)]
                seq += len(numbered)
                executemany("INSERT OR IGNORE INTO event VALUES (?, ?, ?)", numbered)
            execute("UPDATE counter SET version = ?, seq = ?", (changes.version, seq))
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        self.version, self._seq = changes.version, seq

    def events(self, after: int, key_prefix: str, limit: int) -> Sequence[JournalEvent]:
        """Raises sqlite3.Error."""
        rows = self._connection.execute(
            "SELECT seq, key, payload FROM event WHERE key >= ? AND key < ? AND seq > ? ORDER BY seq LIMIT ?"
            if key_prefix
            else "SELECT seq, key, payload FROM event WHERE seq > ? ORDER BY seq LIMIT ?",
            (*_prefix_range(key_prefix), after, limit) if key_prefix else (after, limit),
        )
        return [JournalEvent(*row) for row in rows]

    @property
    def wal_bytes(self) -> int:
        if self.path is None:
            return 0
        try:
            return self._wal.stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self, mode: str) -> None:
        """Moves the WAL into the database, on a connection of its own: may run in another thread.

        Args:
            mode: ``PASSIVE`` beside commits; ``TRUNCATE`` while there are none, empties the WAL.

        Raises:
            sqlite3.Error: it can be tried again later; nothing is lost.
        """
        connection = _connect(str(self.path))
        try:
            (is_busy, _, _) = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            if is_busy:
                raise sqlite3.OperationalError(f"a reader of {self.path} is in the way of its checkpoint")
        finally:
            connection.close()


def damaged(path: Path | None, error: Exception) -> ConfigError:
    return ConfigError(
        "path", f"{path} is damaged ({error}); it was left as it is: restore a copy, or move it away to start anew"
    )


def _connect(name: str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(name, uri=uri, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _vacuum(connection: sqlite3.Connection) -> None:
    """Gives space back when most of a large file is free."""
    (pages,), (free,), (page_bytes,) = (
        connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
    )
    if free * page_bytes > VACUUM_ABOVE_BYTES and free * 2 > pages:
        # Needs as much again for a while: a full disk must not keep the store from opening.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("VACUUM")


def _prefix_range(prefix: str) -> tuple[str, str]:
    """All keys with the prefix are from the first to before the second."""
    return prefix, f"{prefix}\U0010ffff"


def _locked(path: Path) -> int:
    """A lock beside the file: SQLite's own locks come and go with each transaction."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError("path", f"{path} can not be opened: {error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise InUseError(
            "path", f"{path} is in use by another cluster (process {holder}): stop it, or choose another path"
        ) from error
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _checked(path: Path) -> bool:
    """Whether there is nothing in the file yet. Reads only, so that a refused file stays as it was."""
    if not path.exists() or path.stat().st_size == 0:
        return True
    connection = _connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        raise damaged(path, error) from error
    finally:
        connection.close()
    if tables == 0:
        return True
    if application != APPLICATION_ID:
        raise ConfigError("path", f"{path} is a database of another program: choose another path")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            "path",
            f"{path} was written by a newer propfan (schema {version}, this one knows {SCHEMA_VERSION}): "
            "use that one, or another path",
        )
    return False
