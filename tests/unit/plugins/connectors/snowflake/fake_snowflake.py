"""Snowflake's SQL API, on loopback, with SQLite as its warehouse.

Follows the published contract of ``/api/v2/statements`` (docs.snowflake.com, "Snowflake SQL API reference" and
"Authenticating to the server", as of 2026): headers, key-pair tokens, query parameters, bodies, bindings and
answers. What the contract does not have is refused with status 400.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import re
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import jwt
import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.unit.plugins.connectors import loopback

FIELDS: Mapping[str, type] = {
    **dict.fromkeys(("statement", "database", "schema", "warehouse", "role"), str),
    "timeout": int,
    "bindings": dict,
    "parameters": dict,
}
BINDINGS: Mapping[str, Callable[[str], Any]] = {
    "FIXED": int,
    "REAL": float,
    "TEXT": str,
    "BOOLEAN": lambda text: {"true": 1, "false": 0}[text],
    "TIMESTAMP_TZ": lambda text: int(text[: text.index(" ")]),
}
MAX_LIFETIME_S = 3600


def user_key(passphrase: str = "") -> str:
    """PEM of a new private key."""
    encryption: Any = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode()


def public_key(pem: str, passphrase: str = "") -> rsa.RSAPublicKey:
    loaded = serialization.load_pem_private_key(pem.encode(), passphrase.encode() or None)
    assert isinstance(loaded, rsa.RSAPrivateKey)
    return loaded.public_key()


@dataclasses.dataclass
class Statement:
    """One that was submitted.

    Attributes:
        body: Of the request that submitted it.
        failure: What it ends with; ``None`` for a success.
        looks_left: Looks at which it is still in progress.
    """

    handle: str
    body: Mapping[str, Any]
    rows: list[tuple[Any, ...]] = dataclasses.field(default_factory=list)
    failure: tuple[int, Mapping[str, Any]] | None = None
    looks_left: int = 1


class RefusalError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class FakeSnowflake:
    """One account.

    Attributes:
        url: Where it is served.
        keys: Of its users, by ``ACCOUNT.USER``.
        statements: By handle.
        handles: By requestId.
        faults: Answered, in this order, before anything else: status, body and headers.
        looks: At which a new statement is still in progress.
        submissions: How often a statement was submitted, again or not.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, rsa.RSAPublicKey] = {}
        self.statements: dict[str, Statement] = {}
        self.handles: dict[str, str] = {}
        self.faults: list[tuple[int, bytes, Mapping[str, str]]] = []
        self.looks = 1
        self.submissions = 0
        self._numbers = itertools.count(1)
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.execute("create table pets (name text unique, age integer)")
        self._database.execute("insert into pets values ('tom', 9), ('ada', 3)")

    def close(self) -> None:
        self._database.close()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._database.execute(query).fetchall()

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_post("/api/v2/statements", self._guarded(self._submit))
        application.router.add_get("/api/v2/statements/{handle}", self._guarded(self._look))
        application.router.add_post("/api/v2/statements/{handle}/cancel", self._guarded(self._cancel))
        return application

    def _guarded(self, handler: Callable[[web.Request, Any], web.Response]) -> Any:
        async def guarded(request: web.Request) -> web.Response:
            if self.faults:
                status, body, headers = self.faults.pop(0)
                return web.Response(status=status, body=body, headers=headers)
            try:
                self._authenticate(request)
                content = await request.read()
                return handler(request, _body(request, content) if request.method == "POST" else None)
            except RefusalError as refusal:
                return web.json_response({"code": refusal.code, "message": str(refusal)}, status=refusal.status)

        return guarded

    def _authenticate(self, request: web.Request) -> None:
        headers = request.headers
        if headers.get("Accept") != "application/json" or not re.match(r"[\w-]+/\d", headers.get("User-Agent", "")):
            raise RefusalError(400, "391902", "Accept and User-Agent are required")
        kind, _, token = headers.get("Authorization", "").partition(" ")
        if kind != "Bearer" or headers.get("X-Snowflake-Authorization-Token-Type") != "KEYPAIR_JWT":
            raise RefusalError(401, "390101", "Authorization header is missing or of another type.")
        try:
            subject = jwt.decode(token, options={"verify_signature": False})["sub"]
            key = self.keys[subject]
            required = ["iss", "sub", "iat", "exp"]
            claims = jwt.decode(token, key, algorithms=["RS256"], options={"require": required})
        except (jwt.PyJWTError, KeyError) as error:
            raise RefusalError(401, "390144", f"JWT token is invalid. {type(error).__name__}") from None
        der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        fingerprint = base64.b64encode(hashlib.sha256(der).digest()).decode()
        is_short = 0 < claims["exp"] - claims["iat"] <= MAX_LIFETIME_S
        if claims["iss"] != f"{subject}.SHA256:{fingerprint}" or not is_short:
            raise RefusalError(401, "390144", "JWT token is invalid.")

    def _submit(self, request: web.Request, body: Any) -> web.Response:
        self.submissions += 1
        query = dict(request.query)
        if set(query) - {"requestId", "async", "nullable", "retry"}:
            raise RefusalError(400, "391902", f"unknown query parameters in {sorted(query)}")
        request_id = str(uuid.UUID(query["requestId"]))
        assert query.get("async") == "true"
        _check(body)
        if request_id in self.handles and query.get("retry") == "true":
            return self._told(self.statements[self.handles[request_id]], is_look=False)
        made = Statement(f"01b2c3d4-0000-0000-0000-{next(self._numbers):012d}", body, looks_left=self.looks)
        self.handles[request_id] = made.handle
        self.statements[made.handle] = made
        self._execute(made)
        return self._told(made, is_look=False)

    def _execute(self, made: Statement) -> None:
        bindings = made.body.get("bindings", {})
        values = [bindings[str(number)] for number in range(1, len(bindings) + 1)]
        bound = [None if each["value"] is None else BINDINGS[each["type"]](each["value"]) for each in values]
        try:
            made.rows = self._database.execute(made.body["statement"], bound).fetchall()
        except sqlite3.Error as error:
            problem = {"code": "000904", "sqlState": "42000", "message": f"SQL compilation error: {error}"}
            made.failure = (422, problem)

    def _look(self, request: web.Request, body: Any) -> web.Response:
        return self._told(self._found(request), is_look=True)

    def _cancel(self, request: web.Request, body: Any) -> web.Response:
        found = self._found(request)
        if found.looks_left <= 0:
            raise RefusalError(422, "000709", f"Statement {found.handle} is not executing.")
        found.looks_left = 0
        found.failure = (422, {"code": "000604", "sqlState": "57014", "message": "SQL execution canceled"})
        status = f"/api/v2/statements/{found.handle}"
        answer = {"code": "000604", "sqlState": "57014", "message": "SQL execution canceled"}
        return web.json_response({**answer, "statementHandle": found.handle, "statementStatusUrl": status})

    def _found(self, request: web.Request) -> Statement:
        handle = request.match_info["handle"]
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", handle):
            raise RefusalError(400, "391917", f"Invalid statement handle {handle}")
        if handle not in self.statements:
            raise RefusalError(404, "391918", f"Statement {handle} not found")
        return self.statements[handle]

    def _told(self, made: Statement, *, is_look: bool) -> web.Response:
        common = {"statementHandle": made.handle, "statementStatusUrl": f"/api/v2/statements/{made.handle}"}
        if is_look:
            made.looks_left -= 1
        if made.looks_left > 0:
            progress = {"code": "333334", "message": "Asynchronous execution in progress."}
            return web.json_response({**progress, **common}, status=202)
        if made.failure is not None:
            status, problem = made.failure
            return web.json_response({**problem, **common, "createdOn": 1_760_000_000_000}, status=status)
        metadata = {"numRows": len(made.rows), "format": "jsonv2", "rowType": [], "partitionInfo": []}
        success = {"code": "090001", "sqlState": "00000", "message": "Statement executed successfully."}
        data = [[None if cell is None else str(cell) for cell in row] for row in made.rows]
        answer = {**success, **common, "createdOn": 1_760_000_000_000, "resultSetMetaData": metadata, "data": data}
        return web.json_response(answer)


def _body(request: web.Request, content: bytes) -> Any:
    if request.content_type != "application/json":
        raise RefusalError(415, "391911", "Unsupported Media Type")
    return msgspec.json.decode(content)


def _check(body: Any) -> None:
    """The body's shape, strictly."""
    if not isinstance(body, dict) or not isinstance(body.get("statement"), str):
        raise RefusalError(400, "391902", "the body needs a statement")
    wrong = [name for name, value in body.items() if name not in FIELDS or not isinstance(value, FIELDS[name])]
    if wrong:
        raise RefusalError(400, "391902", f"unknown or wrong fields: {wrong}")
    bindings = body.get("bindings", {})
    if set(bindings) != {str(number) for number in range(1, body["statement"].count("?") + 1)}:
        raise RefusalError(400, "391902", "bindings do not fit the placeholders")
    for binding in bindings.values():
        is_text = binding.get("value") is None or isinstance(binding["value"], str)
        if set(binding) != {"type", "value"} or binding["type"] not in BINDINGS or not is_text:
            raise RefusalError(400, "391902", f"no binding: {binding}")
    if any(not isinstance(value, str) for value in body.get("parameters", {}).values()):
        raise RefusalError(400, "391902", "parameters are texts")


@asynccontextmanager
async def opened() -> AsyncIterator[FakeSnowflake]:
    """Serves it on loopback."""
    fake = FakeSnowflake()
    try:
        async with loopback.served(fake.application()) as fake.url:
            yield fake
    finally:
        fake.close()
