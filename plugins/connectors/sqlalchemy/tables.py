"""Rows of a result as Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy
from flyteidl2.core import types_pb2

from propfan.pluginmachinery.errors import PermanentError
from propfan.plugins.connectors.sqlalchemy.config import DatabaseConfig

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

_CHUNK_ROWS: Final = 2000
"""Rows that are fetched at once: the limits are looked at in between."""


class ResultError(Exception):
    """A result that can not be stored as the task wants it; the text is for its user."""


class Table(msgspec.Struct, frozen=True):
    """A result, encoded."""

    content: bytes
    rows: int
    columns: Sequence[str]


def check_installed() -> None:
    """Raises ``PermanentError`` where results can not be written."""
    if find_spec("pyarrow") is None:
        raise PermanentError(
            "ParquetNotInstalled",
            "results are written as Parquet, and pyarrow is not installed where the connector runs; "
            "pip install 'propfan[sqlalchemy]'",
        )


def encode(
    result: sqlalchemy.CursorResult[Any], declared: Mapping[str, types_pb2.LiteralType], config: DatabaseConfig
) -> Table:
    """All rows of a result.

    Args:
        result: Of a statement that returns rows; is read to its end.
        declared: Type of each column that the task's interface names; others keep what the database says.
        config: How large it may be.

    Raises:
        ResultError: it is too large, or a column is of more than one type or not of its declared one.
    """
    import pyarrow as pa
    import pyarrow.parquet  # type: ignore[import-untyped]

    names = list(result.keys())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ResultError(f"two columns are named {', '.join(twice)}: give them names by AS")
    batches: list[pa.Table] = []
    rows = size_bytes = 0
    for chunk in result.partitions(_CHUNK_ROWS):
        rows += len(chunk)
        if rows > config.max_rows:
            raise ResultError(f"the result has more than {config.max_rows} rows (connectors.sqlalchemy.max-rows)")
        columns = [_column(pa, name, [row[index] for row in chunk]) for index, name in enumerate(names)]
        batches.append(pa.table(columns, names=names))
        size_bytes += batches[-1].nbytes
        if size_bytes > config.max_bytes:
            raise ResultError(f"the result has more than {config.max_bytes} bytes (connectors.sqlalchemy.max-bytes)")
    empty = pa.table([pa.nulls(0)] * len(names), names=names)
    try:
        table = pa.concat_tables([empty, *batches], promote_options="permissive")
    except pa.ArrowException as error:
        raise ResultError(f"a column has values of several types: {error}; CAST it to one") from None
    for name, kind in declared.items():
        if name in names:
            table = _cast(pa, table, name, kind)
    sink = io.BytesIO()
    pyarrow.parquet.write_table(table, sink)
    return Table(sink.getvalue(), rows, names)


def _column(pa: Any, name: str, values: Sequence[Any]) -> pa.Array:
    """As texts what Arrow has no one type for: JSON, UUIDs, addresses, ranges."""
    told = [_told(value) for value in values]
    try:
        return pa.array(told)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        told = [_json(value) if isinstance(value, list) else value for value in told]
    try:
        return pa.array(told)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ResultError(f"column '{name}' has values of several types: {error}; CAST it to one") from None


def _told(value: Any) -> Any:
    if isinstance(value, dict):
        return _json(value)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    known = value is None or type(value).__module__ in ("builtins", "datetime", "decimal")
    return value if known else str(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def _cast(pa: Any, table: pa.Table, name: str, kind: types_pb2.LiteralType) -> pa.Table:
    wanted: Mapping[int, Callable[[], Any]] = {
        types_pb2.INTEGER: pa.int64,
        types_pb2.FLOAT: pa.float64,
        types_pb2.STRING: pa.string,
        types_pb2.BOOLEAN: pa.bool_,
    }
    if kind.WhichOneof("type") != "simple" or kind.simple not in wanted:
        return table
    column = table.column(name)
    try:
        cast = column.cast(wanted[kind.simple]())
    except pa.ArrowException as error:
        declared = types_pb2.SimpleType.Name(kind.simple)
        raise ResultError(f"column '{name}' is {column.type} and declared {declared}: {error}") from None
    return table.set_column(table.schema.get_field_index(name), name, cast)
