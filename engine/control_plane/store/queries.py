"""Lists as clients ask for them: filters, order and pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import msgspec
from flyteidl2.common import list_pb2, phase_pb2
from sqlalchemy import JSON, Column, Select

from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.records import micros

T = TypeVar("T")

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

_Function = list_pb2.Filter.Function

_COMPARISONS: Final[Mapping[int, Callable[[Any, Any], Any]]] = {
    _Function.EQUAL: lambda column, value: column == value,
    _Function.NOT_EQUAL: lambda column, value: column != value,
    _Function.GREATER_THAN: lambda column, value: column > value,
    _Function.GREATER_THAN_OR_EQUAL: lambda column, value: column >= value,
    _Function.LESS_THAN: lambda column, value: column < value,
    _Function.LESS_THAN_OR_EQUAL: lambda column, value: column <= value,
    _Function.CONTAINS: lambda column, value: column.contains(value, autoescape=True),
    _Function.CONTAINS_CASE_INSENSITIVE: lambda column, value: column.icontains(value, autoescape=True),
    _Function.ENDS_WITH: lambda column, value: column.endswith(value, autoescape=True),
    _Function.NOT_ENDS_WITH: lambda column, value: ~column.endswith(value, autoescape=True),
}


class Page(msgspec.Struct, Generic[T], frozen=True):
    """Some of what was asked for; ``token`` asks for the rest, and is empty at the end."""

    items: Sequence[T]
    token: str


class Query(msgspec.Struct, frozen=True):
    """One ``common.ListRequest``."""

    request: list_pb2.ListRequest

    @property
    def _limit(self) -> int:
        return min(self.request.limit or DEFAULT_LIMIT, MAX_LIMIT)

    @property
    def _offset(self) -> int:
        token = self.request.token
        if token and not (token.isascii() and token.isdigit()):
            raise InvalidRequestError("request.token", f"{token!r} is no token of an earlier answer")
        return int(token or 0)

    def apply(self, base: Select[Any], columns: Mapping[str, Column[Any]], *default_order: Any) -> Select[Any]:
        """The statement that reads a page, and one row more.

        Raises:
            InvalidRequestError: an unknown field, or a token or value that does not fit.
        """
        for number, wanted in enumerate(self.request.filters):
            base = base.where(self._condition(wanted, columns, f"request.filters[{number}]"))
        sorts = [*self.request.sort_by_fields, *([self.request.sort_by] if self.request.HasField("sort_by") else [])]
        order = []
        for sort in sorts:
            column = self._column(sort.key, columns, "request.sort_by.key")
            order.append(column.asc() if sort.direction == list_pb2.Sort.ASCENDING else column.desc())
        return base.order_by(*(order or default_order)).limit(self._limit + 1).offset(self._offset)

    def page(self, rows: Sequence[T]) -> Page[T]:
        """What ``apply``'s statement read, as an answer."""
        limit = self._limit
        return Page(rows[:limit], str(self._offset + limit) if len(rows) > limit else "")

    def _condition(self, wanted: list_pb2.Filter, columns: Mapping[str, Column[Any]], where: str) -> Any:
        column = self._column(wanted.field, columns, f"{where}.field")
        if wanted.function in (_Function.EXISTS, _Function.NOT_EXISTS):
            return column.is_not(None) if wanted.function == _Function.EXISTS else column.is_(None)
        values = [_value(text, column, f"{where}.values") for text in wanted.values]
        if wanted.function in (_Function.VALUE_IN, _Function.VALUE_NOT_IN):
            return column.in_(values) if wanted.function == _Function.VALUE_IN else column.not_in(values)
        compare = _COMPARISONS.get(wanted.function)
        if compare is None:
            raise InvalidRequestError(f"{where}.function", f"{wanted.function} is not offered")
        if len(values) != 1:
            raise InvalidRequestError(f"{where}.values", f"must be one value, are {len(values)}")
        return compare(column, values[0])

    @staticmethod
    def _column(name: str, columns: Mapping[str, Column[Any]], where: str) -> Any:
        mapping, dot, key = name.partition(".")
        if dot and mapping in columns and isinstance(columns[mapping].type, JSON):
            return columns[mapping][key].as_string()
        if name not in columns:
            raise InvalidRequestError(where, f"{name!r} is none of {', '.join(sorted(columns))}")
        return columns[name]


_TIMES: Final = frozenset({"created_at", "deployed_at", "ended_at", "position"})


def _value(text: str, column: Any, where: str) -> str | int:
    """A value as its column has it: phases by name or number, times in ISO 8601 or microseconds."""
    if column.type.python_type is not int:
        return text
    name = text if text.startswith("ACTION_PHASE_") else f"ACTION_PHASE_{text}"
    phase = phase_pb2.ActionPhase.DESCRIPTOR.values_by_name.get(name.upper())
    if column.name == "phase" and phase is not None:
        return int(phase.number)
    try:
        return micros(datetime.fromisoformat(text)) if column.name in _TIMES and not text.isdigit() else int(text)
    except ValueError:
        raise InvalidRequestError(where, f"{text!r} is no number, phase or time") from None
