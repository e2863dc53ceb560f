"""Inputs of a task as parameters of its statement. A value never becomes part of the SQL text.

Types are those of ``QueryParameterType`` (https://cloud.google.com/bigquery/docs/reference/rest/v2/StandardSqlDataType).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from flyteidl2.core import types_pb2

from propfan.pluginmachinery.errors import BadTaskSpecificationError

_SIMPLE: Final = types_pb2.SimpleType
_SQL_TYPES: Final[Mapping[int, str]] = {
    _SIMPLE.INTEGER: "INT64",
    _SIMPLE.FLOAT: "FLOAT64",
    _SIMPLE.STRING: "STRING",
    _SIMPLE.BOOLEAN: "BOOL",
    _SIMPLE.DATETIME: "DATETIME",  # as Flyte's own connector has it; in UTC
    _SIMPLE.DURATION: "INTERVAL",
    _SIMPLE.STRUCT: "JSON",
}
_PYTHON_TYPES: Final[tuple[tuple[type, str], ...]] = (
    (bool, "BOOL"),  # before int, whose subclass it is
    (int, "INT64"),
    (float, "FLOAT64"),
    (str, "STRING"),
    (datetime, "DATETIME"),
    (timedelta, "INTERVAL"),
    (dict, "JSON"),
)
_LEXEMES: Final = re.compile(
    r"""
    (?P<comment> --[^\n]* | \#[^\n]* | /\*.*?(?:\*/|\Z) )
    | (?P<quoted>
        \"{3} (?:\\.|[^\\])*? \"{3} | '{3} (?:\\.|[^\\])*? '{3}
        | " (?:\\.|[^"\\\n])* " | ' (?:\\.|[^'\\\n])* ' | ` (?:\\.|[^`\\])* `
      )
    | (?P<placeholder> \{\{ \s* \.?inputs\.(?P<name>\w+) \s* \}\} )
    """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_PLACEHOLDER: Final = re.compile(r"\{\{\s*\.?inputs\.(\w+)\s*\}\}", re.IGNORECASE)


def with_parameters(statement: str, inputs: Mapping[str, Any]) -> str:
    """The statement with each placeholder ``{{ .inputs.x }}`` replaced by the parameter ``@x``.

    Raises:
        BadTaskSpecificationError: a placeholder stands in quotes, where no parameter can, or names no input.
    """

    def replaced(lexeme: re.Match[str]) -> str:
        if lexeme["comment"]:
            return lexeme[0]
        if lexeme["quoted"]:
            if inner := _PLACEHOLDER.search(lexeme[0]):
                problem = "stands in quotes, where BigQuery takes no parameter: write"
                raise BadTaskSpecificationError(f"sql.statement: {inner[0]} {problem} @{inner[1]} without quotes")
            return lexeme[0]
        name: str = lexeme["name"]
        if name not in inputs:
            given = ", ".join(inputs) or "none"
            raise BadTaskSpecificationError(
                f"sql.statement: {lexeme[0]} names no input of the task, which has: {given}"
            )
        return f"@{name}"

    return _LEXEMES.sub(replaced, statement)


def query_parameters(
    inputs: Mapping[str, Any], declared: Mapping[str, types_pb2.LiteralType]
) -> Sequence[Mapping[str, Any]]:
    """A ``QueryParameter`` for each input, by name.

    Args:
        declared: Types of the task's interface; decide where a value does not tell (``None``, an empty list).

    Raises:
        BadTaskSpecificationError: BigQuery has no parameter for an input; named.
    """
    return [
        {
            "name": name,
            "parameterType": (kind := _type_of(value, declared.get(name), f"input '{name}'")),
            "parameterValue": _value(value, kind),
        }
        for name, value in inputs.items()
    ]


def _type_of(value: Any, declared: types_pb2.LiteralType | None, path: str) -> Mapping[str, Any]:
    kind = None if declared is None else declared.WhichOneof("type")
    if declared is not None and kind == "union_type":
        variants = [variant for variant in declared.union_type.variants if not _is_none(variant)]
        only = variants[0] if len(variants) == 1 else None
        return _type_of(value, only, path)
    if isinstance(value, list) or (value is None and kind == "collection_type"):
        element = declared.collection_type if declared is not None and kind == "collection_type" else None
        return {"type": "ARRAY", "arrayType": _element_type(value or [], element, path)}
    if declared is not None and kind == "simple" and declared.simple in _SQL_TYPES:
        return {"type": _SQL_TYPES[declared.simple]}
    if value is None:
        return {"type": "STRING"}
    for python, name in _PYTHON_TYPES:
        if isinstance(value, python):
            return {"type": name}
    problem = f"is a {type(value).__name__}, of which BigQuery has no parameter; pass its URI as a string"
    raise BadTaskSpecificationError(f"{path} {problem}")


def _is_none(kind: types_pb2.LiteralType) -> bool:
    return kind.WhichOneof("type") == "simple" and kind.simple == _SIMPLE.NONE


def _element_type(items: list[Any], declared: types_pb2.LiteralType | None, path: str) -> Mapping[str, Any]:
    if any(item is None or isinstance(item, list) for item in items):
        problem = "holds a list or nothing at all, which BigQuery's arrays can not; pass a struct instead"
        raise BadTaskSpecificationError(f"{path} {problem}")
    if not items and declared is None:
        return {"type": "STRING"}
    kinds = [_type_of(item, declared, path) for item in items] or [_type_of(None, declared, path)]
    if any(kind != kinds[0] for kind in kinds):
        raise BadTaskSpecificationError(f"{path} holds values of several types, which BigQuery's arrays can not")
    return kinds[0]


def _value(value: Any, kind: Mapping[str, Any]) -> Mapping[str, Any]:
    """``QueryParameterValue``; its scalars are texts, and nothing at all means NULL."""
    if value is None:
        return {}
    if kind["type"] == "ARRAY":
        return {"arrayValues": [_value(item, kind["arrayType"]) for item in value]}
    match value:
        case bool():
            return {"value": "true" if value else "false"}
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo else value
            return {"value": moment.replace(tzinfo=None).isoformat()}
        case timedelta():
            return {"value": _interval(value)}
        case dict():
            return {"value": msgspec.json.encode(value).decode()}
        case _:
            return {"value": str(value)}


def _interval(span: timedelta) -> str:
    """BigQuery's canonical form, ``years-months days hours:minutes:seconds``."""
    sign = "-" if span < timedelta() else ""
    days, rest = divmod(abs(span), timedelta(days=1))
    minutes, seconds = divmod(rest, timedelta(minutes=1))
    return f"0-0 {sign}{days} {sign}{minutes // 60}:{minutes % 60}:{seconds.total_seconds():.6f}"
