"""Statements of a task, as Snowflake's SQL API takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.snowflake.accounts import Account, SnowflakeConfig
from propfan.plugins.connectors.sql_templates import IDEMPOTENCY_KEY, Bound, SqlTemplate, Syntax

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_OFFSET: Final = 1440
"""Minutes that the API adds to the offset of a TIMESTAMP_TZ, so that it is never negative."""


class ConnectionArguments(msgspec.Struct, frozen=True):
    """``connection_kwargs``, as far as they matter to this API; the others are of Snowflake's own driver."""

    role: str = ""
    host: str = ""
    port: int = 443
    protocol: str = "https"
    authenticator: str = "snowflake_jwt"
    password: str | None = None
    token: str | None = None
    session_parameters: Mapping[str, Any] = {}


class StatementSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task of Flyte 2, ``config`` of one of Flyte 1.

    Attributes:
        batch: Whether inputs are lists of equal length, one row of ``VALUES`` for each item.
    """

    account: str
    user: str
    database: str
    schema: str
    warehouse: str
    batch: bool = False
    connection_kwargs: ConnectionArguments | None = None

    @property
    def arguments(self) -> ConnectionArguments:
        return self.connection_kwargs or ConnectionArguments()


class Submission(msgspec.Struct, frozen=True):
    """What a task wants to be run, where and by whom.

    Attributes:
        is_v1: Of Flyte 1's SDK, which writes and reads addresses of results in its own way.
        body: Of the request.
    """

    spec: StatementSpec
    account: Account
    is_v1: bool
    output: str
    body: Mapping[str, Any]

    @classmethod
    def of(cls, task: TaskRequest, config: SnowflakeConfig) -> Submission:
        """Reads a task.

        Raises:
            BadTaskSpecificationError: a field is missing or can not be used; it is named.
        """
        is_v1 = "account" not in task.template.custom and "account" in task.template.config
        spec = _v1_spec(task) if is_v1 else task.custom(StatementSpec)
        arguments = spec.arguments
        if arguments.password or arguments.token or arguments.authenticator.lower() != "snowflake_jwt":
            problem = "only key pairs are taken: name the secret 'snowflake_private_key' and no other credentials"
            raise BadTaskSpecificationError(f"connection_kwargs: {problem}")
        place = {"host": arguments.host, "protocol": arguments.protocol}
        account = Account.at(spec.account, spec.user, config, port=arguments.port, **place)
        outputs = [entry.key for entry in task.template.interface.outputs.variables]
        if len(outputs) > 1:
            raise BadTaskSpecificationError(
                f"a statement has one output, its result; the task declares {', '.join(outputs)}"
            )
        return cls(spec, account, is_v1, outputs[0] if outputs else "", _body(task, spec, config))


def _v1_spec(task: TaskRequest) -> StatementSpec:
    try:
        return msgspec.convert(dict(task.template.config), StatementSpec)
    except msgspec.ValidationError as error:
        raise BadTaskSpecificationError(f"task '{task.template.id.name}' (snowflake): config: {error}") from None


def _body(task: TaskRequest, spec: StatementSpec, config: SnowflakeConfig) -> Mapping[str, Any]:
    if not task.template.sql.statement.strip():
        raise BadTaskSpecificationError(f"task '{task.template.id.name}' (snowflake): sql.statement is empty")
    inputs = task.inputs()
    key = task.unique_name()
    syntax = Syntax(has_printf=bool(inputs), has_backslashes=True)
    template = SqlTemplate.parse(task.template.sql.statement, syntax)
    if spec.batch:
        parts = template.in_rows([{IDEMPOTENCY_KEY: key, **row} for row in _rows(inputs)])
    else:
        parts = template.filled({IDEMPOTENCY_KEY: key, **inputs})
    bindings = [_binding(part.value) for part in parts if isinstance(part, Bound)]
    settings = {name: _setting(value) for name, value in spec.arguments.session_parameters.items()}
    body: dict[str, Any] = {
        "statement": "".join(part if isinstance(part, str) else "?" for part in parts),
        "database": spec.database,
        "schema": spec.schema,
        "warehouse": spec.warehouse,
        "parameters": {"query_tag": key, **{name.lower(): value for name, value in settings.items()}},
    }
    if bindings:
        body["bindings"] = {str(number): binding for number, binding in enumerate(bindings, 1)}
    if spec.arguments.role or config.role:
        body["role"] = spec.arguments.role or config.role
    if config.statement_timeout_s:
        body["timeout"] = config.statement_timeout_s
    return body


def _rows(inputs: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    wrong = [name for name, value in inputs.items() if not isinstance(value, list)]
    if wrong or not inputs:
        problem = f"of them {', '.join(wrong)} is none" if wrong else "and it has none"
        raise BadTaskSpecificationError(f"batch: the task's inputs must be lists, {problem}")
    lengths = {name: len(value) for name, value in inputs.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise BadTaskSpecificationError(f"batch: the lists must be of one length and not empty: {told}")
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


def _binding(value: Any) -> Mapping[str, Any]:
    """A value as the API writes it: all are texts."""
    match value:
        case bool():
            return {"type": "BOOLEAN", "value": "true" if value else "false"}
        case int():
            return {"type": "FIXED", "value": str(value)}
        case float():
            return {"type": "REAL", "value": repr(value)}
        case datetime():
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
            offset = moment.utcoffset() or timedelta()
            nanoseconds = (moment - _EPOCH) // timedelta(microseconds=1) * 1000
            return {"type": "TIMESTAMP_TZ", "value": f"{nanoseconds} {offset // timedelta(minutes=1) + _NO_OFFSET}"}
        case timedelta():
            return {"type": "REAL", "value": repr(value.total_seconds())}
    return {"type": "TEXT", "value": value}


def _setting(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
