"""Tasks of type ``snowflake``, over Snowflake's SQL API (``/api/v2/statements``).

A statement is submitted to be run asynchronously, under a ``requestId`` that is the same in every call for one
attempt and with ``retry=true``: Snowflake runs it once and answers later calls with the same handle. The handle
is the id of the query, by which any session of the account reads the result within 24 hours.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

import msgspec

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connection,
    ConnectorSetup,
    Dataset,
    HttpResponse,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import DecodeError, PermanentError
from propfan.pluginmachinery.phases import LinkType, TaskLog
from propfan.plugins.connectors.http_answers import checked
from propfan.plugins.connectors.snowflake.accounts import PASSPHRASE, PRIVATE_KEY, Account, SnowflakeConfig, Tokens
from propfan.plugins.connectors.snowflake.statements import Submission

_REQUESTS: Final = uuid.UUID("6a3a2d1e-5c0b-4b1e-9a63-0a7a2b1f4c55")
"""Namespace of the ``requestId`` of each attempt."""

_CANCELED: Final = "000604"
_HANDLE: Final = re.compile(r"[0-9A-Za-z-]{1,64}")


class SnowflakeMeta(ResourceMeta, frozen=True):
    """What finds a statement again, and its result.

    Attributes:
        handle: Of the statement; it is the query's id too.
        host: Where the task names one; ``port`` and ``protocol`` belong to it.
        output: Name of the task's output; empty when it has none.
        uri: Of the result.
    """

    account: str
    user: str
    handle: str
    host: str = ""
    port: int = 443
    protocol: str = "https"
    output: str = ""
    uri: str = ""


class _ResultInfo(msgspec.Struct, frozen=True):
    rows: int | None = msgspec.field(name="numRows", default=None)


class _Answer(msgspec.Struct, frozen=True):
    """``QueryStatus``, ``QueryFailureStatus`` and ``ResultSet`` of the API, without the rows."""

    code: str = ""
    message: str = ""
    sql_state: str | None = msgspec.field(name="sqlState", default=None)
    handle: str = msgspec.field(name="statementHandle", default="")
    result: _ResultInfo | None = msgspec.field(name="resultSetMetaData", default=None)

    @property
    def told(self) -> str:
        state = f" ({self.sql_state})" if self.sql_state else ""
        return f"{self.code}{state}: {self.message}" if self.code else self.message


class SnowflakeConnector(AsyncConnector[SnowflakeMeta]):
    """Runs statements of both SDKs; results stay in Snowflake, and outputs say where."""

    name = "Snowflake Connector"
    categories = (TaskCategory("snowflake"),)
    meta_type = SnowflakeMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config = setup.section("snowflake", SnowflakeConfig)
        self._tokens = Tokens()

    async def create(self, task: TaskRequest) -> SnowflakeMeta:
        wanted = Submission.of(task, self._config)
        spec, account = wanted.spec, wanted.account
        request_id = uuid.uuid5(_REQUESTS, task.unique_name())
        params = {"requestId": str(request_id), "retry": "true", "async": "true"}
        path = "/api/v2/statements"
        response = await self._asked(account, "POST", path, task.connection, params=params, body=wanted.body)
        answer = _read(response)
        if not (response.is_success or response.status == 408) or not answer.handle:
            checked(response, f"snowflake: submit a statement to account '{spec.account}'", self.setup, answer.told)
            raise DecodeError(f"answer of {response.url}", "it has no statementHandle")
        separator = ":" if wanted.is_v1 else "/"
        place = f"{spec.warehouse}/{spec.database}/{spec.schema}"
        return SnowflakeMeta(
            account=spec.account,
            user=spec.user,
            handle=answer.handle,
            host=spec.arguments.host,
            port=spec.arguments.port,
            protocol=spec.arguments.protocol,
            output=wanted.output,
            uri=f"snowflake://{spec.user}{separator}{spec.account}/{place}/{answer.handle}",
        )

    async def get(self, meta: SnowflakeMeta, job: JobContext) -> Resource:
        account = self._account(meta)
        if not _HANDLE.fullmatch(meta.handle):
            return Resource(RemotePhase.FAILED, f"snowflake: '{meta.handle[:64]}' is no handle of a statement")
        response = await self._asked(account, "GET", f"/api/v2/statements/{meta.handle}", job.connection)
        links = [TaskLog(account.query_page(meta.handle), "Snowsight", ready=True, link_type=LinkType.DASHBOARD)]
        answer = _read(response)
        info = {"statement_handle": meta.handle}
        match response.status:
            case 202:
                return Resource(RemotePhase.RUNNING, answer.message, links, custom_info=info)
            case 200:
                rows = answer.result.rows if answer.result is not None else None
                told = info if rows is None else {**info, "rows": rows}
                outputs = {meta.output: Dataset(meta.uri)} if meta.output else None
                return Resource(RemotePhase.SUCCEEDED, answer.message, links, outputs, told)
            case 422 if answer.code == _CANCELED:
                return Resource(RemotePhase.ABORTED, f"snowflake: {answer.told}", links, custom_info=info)
            case 422:
                return Resource(RemotePhase.FAILED, f"snowflake: {answer.told}", links, custom_info=info)
            case 408 if answer.handle:  # without it a gateway speaks
                limit = "the limit is connectors.snowflake.statement-timeout-s or the account's own"
                return Resource(RemotePhase.FAILED, f"snowflake: {answer.told}; {limit}", links, custom_info=info)
            case 404:
                problem = f"account '{meta.account}' knows no statement {meta.handle}; results are kept for 24 hours"
                return Resource(RemotePhase.FAILED, f"snowflake: {problem}", links, custom_info=info)
        checked(response, f"snowflake: look at statement {meta.handle}", self.setup, answer.told)
        raise DecodeError(f"answer of {response.url}", f"status {response.status} is none of the SQL API's")

    async def delete(self, meta: SnowflakeMeta, job: JobContext) -> None:
        account = self._account(meta)
        if not _HANDLE.fullmatch(meta.handle):
            return
        path = f"/api/v2/statements/{meta.handle}/cancel"
        response = await self._asked(account, "POST", path, job.connection, body={})
        if response.status not in (404, 422):  # unknown, or over
            checked(response, f"snowflake: cancel statement {meta.handle}", self.setup, _read(response).told)

    def _account(self, meta: SnowflakeMeta) -> Account:
        """Checked anew: a meta comes back from outside."""
        return Account.at(meta.account, meta.user, self._config, host=meta.host, port=meta.port, protocol=meta.protocol)

    async def _asked(
        self,
        account: Account,
        method: str,
        path: str,
        connection: Connection,
        *,
        params: dict[str, str] | None = None,
        body: object = None,
    ) -> HttpResponse:
        """The API's answer, whatever its status.

        Raises:
            PermanentError: the key is missing or no key.
            TransientError: no answer.
        """
        private_key = await self.get_secret(PRIVATE_KEY, connection)
        passphrase = await self._passphrase(connection)
        token = await self._tokens.of(account, private_key, passphrase, self.setup.now())
        headers = {
            "Authorization": f"Bearer {token}",
            "X-Snowflake-Authorization-Token-Type": "KEYPAIR_JWT",
            "Accept": "application/json",
            "User-Agent": "propfan/1",
        }
        return await self.setup.http.request(
            method, f"{account.server}{path}", params=params, headers=headers, json=body
        )

    async def _passphrase(self, connection: Connection) -> str:
        """Of the key; empty for a key that has none. One of the service's own goes with its own key only."""
        if PRIVATE_KEY in connection.secrets:
            return connection.secrets.get(PASSPHRASE, "")
        try:
            return await self.get_secret(PASSPHRASE, connection)
        except PermanentError:
            return ""


def _read(response: HttpResponse) -> _Answer:
    """The body; the text of one that is not the API's, such as a gateway's."""
    try:
        return response.json(_Answer)
    except DecodeError:
        if response.is_success:
            raise
        return _Answer(message=response.text())
