"""Where the outputs of cached tasks are, and who computes a value at the moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from flyteidl2.cacheservice import cacheservice_pb2
from sqlalchemy import Connection, delete, select

from propfan.engine.control_plane.records import micros, of_micros
from propfan.engine.control_plane.store.database import Database, dialect_of
from propfan.engine.control_plane.store.schema import cache_entries, cache_reservations
from propfan.pluginmachinery.errors import AlreadyExistsError, NotFoundError

_KEPT_HEARTBEATS: Final = 3
"""A reservation ends so many heartbeats after its last one, as with Flyte's service."""


class CachedOutputs:
    """Entries and reservations by key."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def get(self, key: str) -> cacheservice_pb2.CachedOutput:
        """Raises ``NotFoundError``."""
        query = select(cache_entries.c.content).where(cache_entries.c.key == key)
        row = await self._database.row(query)
        if row is None:
            raise NotFoundError(f"cache entry {key}", "there is none")
        return cacheservice_pb2.CachedOutput.FromString(row.content)

    async def put(self, key: str, output: cacheservice_pb2.CachedOutput, *, overwrite: bool) -> None:
        """Raises ``AlreadyExistsError`` when there is one and it is not to be written over."""
        stored = cacheservice_pb2.CachedOutput()
        stored.CopyFrom(output)
        now = datetime.now(UTC)
        stored.metadata.last_updated_at.FromDatetime(now)
        if not stored.metadata.HasField("created_at"):
            stored.metadata.created_at.FromDatetime(now)
        row = {"key": key, "content": stored.SerializeToString()}

        def store(connection: Connection) -> bool:
            insert = dialect_of(connection).insert(cache_entries).values(row)
            if overwrite:
                connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=row))
                return True
            done = connection.execute(insert.on_conflict_do_nothing().returning(cache_entries.c.key))
            return done.one_or_none() is not None

        if not await self._database.write(store):
            raise AlreadyExistsError(f"cache entry {key}", "there is one: ask for it to be written over")

    async def forget(self, key: str) -> None:
        """No entry is as good as one that was removed."""
        statement = delete(cache_entries).where(cache_entries.c.key == key)
        await self._database.write(lambda connection: connection.execute(statement))

    async def reserve(self, key: str, owner: str, heartbeat: timedelta) -> tuple[str, datetime]:
        """Who has the key reserved, until when: ``owner`` if it is free, expired, or theirs, which extends it."""
        now = datetime.now(UTC)
        expires_at = now + heartbeat * _KEPT_HEARTBEATS
        row = {"key": key, "owner": owner, "expires_at": micros(expires_at)}
        own = (cache_reservations.c.owner == owner) | (cache_reservations.c.expires_at < micros(now))

        def reserve(connection: Connection) -> tuple[str, int]:
            insert = dialect_of(connection).insert(cache_reservations).values(row)
            connection.execute(insert.on_conflict_do_update(index_elements=["key"], set_=row, where=own))
            query = select(cache_reservations.c.owner, cache_reservations.c.expires_at)
            held = connection.execute(query.where(cache_reservations.c.key == key)).one()
            return held.owner, held.expires_at

        holder, until = await self._database.write(reserve)
        return holder, of_micros(until)

    async def release(self, key: str, owner: str) -> None:
        """Raises ``NotFoundError`` when it is not theirs."""
        where = (cache_reservations.c.key == key) & (cache_reservations.c.owner == owner)
        statement = delete(cache_reservations).where(where)
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise NotFoundError(f"reservation of {key}", f"{owner} has none")
