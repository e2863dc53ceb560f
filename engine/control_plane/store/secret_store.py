"""Secrets, encrypted with a key that is not in the database."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import Row, delete, select, update
from sqlalchemy.exc import IntegrityError

from propfan.engine.control_plane.records import micros, of_micros
from propfan.engine.control_plane.store.database import Database
from propfan.engine.control_plane.store.schema import secrets
from propfan.pluginmachinery.errors import AlreadyExistsError, ConfigError, NotFoundError


class SecretId(msgspec.Struct, frozen=True):
    """Where a secret is known: in a domain of a project, a project, a domain, or everywhere."""

    name: str
    project: str = ""
    domain: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.project, self.domain, self.name)))


class SecretEntry(msgspec.Struct, frozen=True):
    """What may be shown of a secret."""

    id: SecretId
    type: int
    created_at: datetime


class SecretStore:
    """Values are never shown, logged or put into errors."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database: Final = database
        try:
            self._fernet: Final = Fernet(key)
        except ValueError as error:
            raise ConfigError("secrets-key", f"is no Fernet key: {error}") from None

    async def create(self, identifier: SecretId, value: str | bytes, kind: int) -> None:
        """Raises ``AlreadyExistsError``."""
        row = {
            "project": identifier.project,
            "domain": identifier.domain,
            "name": identifier.name,
            "created_at": micros(datetime.now(UTC)),
            **self._sealed(value, kind),
        }
        try:
            await self._database.write(lambda connection: connection.execute(secrets.insert().values(row)))
        except IntegrityError:
            raise AlreadyExistsError(f"secret {identifier}", "exists: update or delete it") from None

    async def update(self, identifier: SecretId, value: str | bytes, kind: int) -> None:
        """Raises ``NotFoundError``."""
        statement = update(secrets).where(_is(identifier)).values(self._sealed(value, kind))
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise _missing(identifier)

    async def delete(self, identifier: SecretId) -> None:
        """Raises ``NotFoundError``."""
        statement = delete(secrets).where(_is(identifier))
        if await self._database.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise _missing(identifier)

    async def entry(self, identifier: SecretId) -> SecretEntry:
        """Raises ``NotFoundError``."""
        row = await self._database.row(select(secrets).where(_is(identifier)))
        if row is None:
            raise _missing(identifier)
        return _entry(row)

    async def list(self, project: str, domain: str, *, limit: int, offset: int) -> Sequence[SecretEntry]:
        """By name, those of one place; of all places when neither project nor domain is given."""
        query = select(secrets).order_by(secrets.c.name, secrets.c.project, secrets.c.domain)
        if project or domain:
            query = query.where(secrets.c.project == project, secrets.c.domain == domain)
        return [_entry(row) for row in await self._database.rows(query.limit(limit).offset(offset))]

    async def value(self, name: str, project: str, domain: str) -> str | bytes | None:
        """Of the secret that a task of that project and domain means: the one with the closest scope."""
        for place in ((project, domain), (project, ""), ("", domain), ("", "")):
            row = await self._database.row(select(secrets).where(_is(SecretId(name, *place))))
            if row is not None:
                return self._opened(row)
        return None

    def _sealed(self, value: str | bytes, kind: int) -> dict[str, Any]:
        is_text = isinstance(value, str)
        content = value.encode() if isinstance(value, str) else value
        return {"sealed": self._fernet.encrypt(content), "is_text": int(is_text), "type": kind}

    def _opened(self, row: Row[Any]) -> str | bytes:
        try:
            content = self._fernet.decrypt(row.sealed)
        except InvalidToken:
            raise ConfigError("secrets-key", f"is not the one that secret '{row.name}' was stored with") from None
        return content.decode() if row.is_text else content


def _is(identifier: SecretId) -> Any:
    return (
        (secrets.c.project == identifier.project)
        & (secrets.c.domain == identifier.domain)
        & (secrets.c.name == identifier.name)
    )


def _entry(row: Row[Any]) -> SecretEntry:
    return SecretEntry(SecretId(row.name, row.project, row.domain), row.type, of_micros(row.created_at))


def _missing(identifier: SecretId) -> NotFoundError:
    return NotFoundError(f"secret {identifier}", "there is no such secret")
