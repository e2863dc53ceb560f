"""SQL templates, and what a task is called with as bound values: nothing is pasted into SQL.

=============================  ============================================================================
in the template                in the statement
=============================  ============================================================================
``{{ .inputs.x }}``            a bound value; of a list, one for each item, in parentheses
``'since {{ .inputs.x }}'``    a bound text: the whole quoted text with the value in it
``"{{ .inputs.x }}"``          a quoted identifier, the only way to name a table by an input
``{{ .idempotency_key }}``     as an input of that name: what tells this attempt from every other one
``%(x)s``                      as ``{{ .inputs.x }}``, where the database's own driver has these
=============================  ============================================================================

Comments and dollar-quoted bodies stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError

IDEMPOTENCY_KEY: Final = "idempotency_key"
"""The placeholder that is no input; also written ``perRetryUniqueKey``, as Flyte's own templates call it."""

_ALIASES: Final = {"perretryuniquekey": IDEMPOTENCY_KEY, IDEMPOTENCY_KEY: IDEMPOTENCY_KEY}
_BRACES: Final = r"\{\{\s*\.(?P<path>\w+(?:\.\w+)?)\s*\}\}"
_PRINTF: Final = r"%\((?P<name>\w+)\)[sdifr]|(?P<percent>%%)"
_KEPT: Final = r"(?P<kept>--[^\n]*|/\*.*?(?:\*/|\Z)|(?<![\w$])(?P<tag>\$\w*\$).*?(?:(?P=tag)|\Z)"
"""What is never closed goes to the end: else each beginning would be looked for an end in all that follows."""

_ESCAPED: Final = r"(?P<escaped>\b[eE]'(?:[^'\\]|''|\\.)*')"
_DOUBLE: Final = r"\"(?:[^\"]|\"\")*\""
_BACKTICKS: Final = r"`(?:[^`]|``)*`"

_PARENTHESES: Final = re.compile(
    rf"'(?:[^'\\]|''|\\.)*'|{_DOUBLE}|--[^\n]*|/\*.*?(?:\*/|\Z)|(?P<values>\bVALUES\s*\()|(?P<parenthesis>[()])",
    re.IGNORECASE | re.DOTALL,
)


class Syntax(msgspec.Struct, frozen=True):
    r"""How a database reads SQL, as far as texts are quoted.

    Attributes:
        has_printf: Whether ``%(x)s`` is a placeholder, and ``%%`` a percent sign.
        has_backslashes: Whether ``\'`` in a quoted text is an apostrophe.
        is_mysql: Whether double quotes are around texts, and ``#`` begins a comment.
    """

    has_printf: bool = False
    has_backslashes: bool = False
    is_mysql: bool = False

    @property
    def placeholder(self) -> str:
        return f"{_BRACES}|{_PRINTF}" if self.has_printf else _BRACES

    @property
    def pattern(self) -> str:
        """All that is no plain SQL."""
        kept = _KEPT + (r"|\#[^\n]*)" if self.is_mysql else ")")
        text = r"'(?:[^'\\]|''|\\.)*'" if self.has_backslashes else r"'(?:[^']|'')*'"
        identifier = f"{_DOUBLE}|{_BACKTICKS}"
        if self.is_mysql:
            text, identifier = text + r"|\"(?:[^\"\\]|\"\"|\\.)*\"", _BACKTICKS
        return f"{kept}|{_ESCAPED}|(?P<text>{text})|(?P<identifier>{identifier})|{self.placeholder}"


STANDARD: Final = Syntax()
MYSQL: Final = Syntax(has_backslashes=True, is_mysql=True)


class Bound(msgspec.Struct, frozen=True):
    """A value in its place in a statement."""

    value: Any


class Name(msgspec.Struct, frozen=True):
    """What is to be replaced by an input, or by the idempotency key."""

    name: str


class Slot(msgspec.Struct, frozen=True):
    """Where values go: text and names, within ``quote`` unless that is empty."""

    pieces: Sequence[str | Name]
    quote: str = ""


class SqlTemplate(msgspec.Struct, frozen=True):
    """A template that was taken apart: SQL, and slots for values.

    Attributes:
        parts: In their order.
    """

    parts: Sequence[str | Slot]

    @classmethod
    def parse(cls, text: str, syntax: Syntax = STANDARD) -> SqlTemplate:
        """Takes a template apart.

        Raises:
            BadTaskSpecificationError: a placeholder is none, or stands where no value can be put; it is named.
        """
        inner = re.compile(syntax.placeholder)
        parts: list[str | Slot] = []
        end = 0
        for found in re.finditer(syntax.pattern, text, re.DOTALL):
            parts += _plain(text[end : found.start()])
            end = found.end()
            parts.append(_part(found, inner, has_backslashes=syntax.has_backslashes))
        parts += _plain(text[end:])
        return cls(_joined(parts))

    def filled(self, values: Mapping[str, Any]) -> Sequence[str | Bound]:
        """The statement, with values in place of slots.

        Raises:
            BadTaskSpecificationError: a value is missing or can not be bound; it is named.
        """
        return _joined([piece for index in range(len(self.parts)) for piece in self._filled(index, values)])

    def in_rows(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[str | Bound]:
        """The statement with the one row of its ``VALUES`` repeated for each of ``rows``.

        Raises:
            BadTaskSpecificationError: there is not exactly one such row, or as of ``filled``.
        """
        before, row, after = self._split_at_values()
        outside = rows[0] if rows else {}
        repeated: list[str | Bound] = []
        for number, values in enumerate(rows):
            repeated += [", "] if number else []
            repeated += row.filled(values)
        return _joined([*before.filled(outside), *repeated, *after.filled(outside)])

    def _split_at_values(self) -> tuple[SqlTemplate, SqlTemplate, SqlTemplate]:
        """What is before the row, the row in its parentheses, and what is after it."""
        begin: tuple[int, int] | None = None
        end: tuple[int, int] | None = None
        depth = 0
        for index, part in enumerate(self.parts):
            for found in _PARENTHESES.finditer(part) if isinstance(part, str) else ():
                if found["values"] and begin is not None:
                    raise BadTaskSpecificationError("batch needs one VALUES (...) in the statement, found several")
                if found["values"]:
                    begin, depth = (index, found.end() - 1), 1
                elif found["parenthesis"] and begin is not None and end is None:
                    depth += 1 if found.group() == "(" else -1
                    end = (index, found.end()) if depth == 0 else None
        if begin is None or end is None:
            raise BadTaskSpecificationError("batch needs one VALUES (...) in the statement, found none")
        return self._split(begin, end)

    def _split(self, begin: tuple[int, int], end: tuple[int, int]) -> tuple[SqlTemplate, SqlTemplate, SqlTemplate]:
        first, last = str(self.parts[begin[0]]), str(self.parts[end[0]])
        before = [*self.parts[: begin[0]], first[: begin[1]]]
        after = [last[end[1] :], *self.parts[end[0] + 1 :]]
        if begin[0] == end[0]:
            row: list[str | Slot] = [first[begin[1] : end[1]]]
        else:
            row = [first[begin[1] :], *self.parts[begin[0] + 1 : end[0]], last[: end[1]]]
        return SqlTemplate(before), SqlTemplate(row), SqlTemplate(after)

    def _filled(self, index: int, values: Mapping[str, Any]) -> Iterator[str | Bound]:
        part = self.parts[index]
        if isinstance(part, str):
            yield part
        elif part.quote == "'":
            yield Bound(_text(part, values))
        elif part.quote:
            yield _identifier(part, values)
        else:
            (name,) = part.pieces
            assert isinstance(name, Name)
            value = _value(name, values)
            if isinstance(value, list | tuple):
                before = self.parts[index - 1] if index else ""
                is_enclosed = isinstance(before, str) and before.rstrip().endswith("(")
                yield from _items(name, value, is_enclosed=is_enclosed)
            else:
                yield Bound(_bindable(name, value))


def _plain(text: str) -> list[str | Slot]:
    """Text without placeholders; what looks like one that has another form is refused."""
    found = re.search(r"\{\{\s*[.$][^{\n]*?\}\}", text)
    if found is not None:
        raise BadTaskSpecificationError(f"placeholder '{found.group()}': {_KNOWN}")
    return [text] if text else []


_KNOWN: Final = "known are {{.inputs.<name>}} and {{.idempotency_key}}"


def _part(found: re.Match[str], inner: re.Pattern[str], *, has_backslashes: bool) -> str | Slot:
    text = found.group()
    if found["identifier"] is not None:
        return _quoted(text, inner, text[0])
    if found["text"] is not None or found["escaped"] is not None:
        return _quoted(text, inner, has_backslashes=has_backslashes or found["escaped"] is not None)
    if found["kept"] is not None:
        if inner.search(text) and text.startswith("$"):
            raise BadTaskSpecificationError(f"placeholder within {found['tag']}: no value can be bound there")
        return text
    piece = _piece(found)
    return Slot([piece]) if isinstance(piece, Name) else piece


def _quoted(text: str, inner: re.Pattern[str], kind: str = "'", *, has_backslashes: bool = False) -> str | Slot:
    """A quoted text, or an identifier where ``kind`` is its quote; a slot when there are placeholders in it."""
    quote = text[-1]
    body = text[text.index(quote) + 1 : -1]
    pieces: list[str | Name] = []
    end = 0
    for found in inner.finditer(body):
        pieces += [body[end : found.start()], _piece(found)]
        end = found.end()
    pieces.append(body[end:])
    if not any(isinstance(piece, Name) for piece in pieces):
        _plain(body)
        return text if len(pieces) == 1 else text[: text.index(quote) + 1] + "".join(map(str, pieces)) + quote
    if has_backslashes and "\\" in body:
        raise BadTaskSpecificationError(f"{text}: a text with a placeholder can have no backslashes; join two texts")
    unescaped = [piece if isinstance(piece, Name) else piece.replace(quote * 2, quote) for piece in pieces]
    return Slot([piece for piece in unescaped if piece != ""], kind)


def _piece(found: re.Match[str]) -> str | Name:
    groups = found.groupdict()
    if groups.get("percent"):
        return "%"
    if groups.get("name"):
        return Name(groups["name"])
    kind, _, name = groups["path"].partition(".")
    if kind.lower() == "inputs" and name:
        return Name(name)
    if not name and kind.lower() in _ALIASES:
        return Name(_ALIASES[kind.lower()])
    raise BadTaskSpecificationError(f"placeholder '{found.group()}': {_KNOWN}")


def _joined(parts: Sequence[Any]) -> list[Any]:
    """Neighbouring texts as one."""
    joined: list[Any] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return joined


def _value(name: Name, values: Mapping[str, Any]) -> Any:
    if name.name not in values:
        given = ", ".join(sorted(values))
        raise BadTaskSpecificationError(f"the statement names the input '{name.name}', and the task has: {given}")
    return values[name.name]


def _bindable(name: Name, value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str() | datetime() | timedelta():
            return value
        case Blob() | Dataset():
            return value.uri
        case dict():
            return msgspec.json.encode(value).decode()
    raise BadTaskSpecificationError(f"input '{name.name}': a {type(value).__name__} can not be bound to a statement")


def _items(name: Name, items: Sequence[Any], *, is_enclosed: bool) -> Iterator[str | Bound]:
    if not items:
        raise BadTaskSpecificationError(f"input '{name.name}' is an empty list, and SQL has no empty IN (...)")
    for number, item in enumerate(items):
        yield ", " if number else "" if is_enclosed else "("
        yield Bound(_bindable(name, item))
    if not is_enclosed:
        yield ")"


def _text(slot: Slot, values: Mapping[str, Any]) -> str | None:
    """The text with the values in it; ``None``, which is NULL, where a missing value is all of it."""
    told = []
    for piece in slot.pieces:
        value = _bindable(piece, _value(piece, values)) if isinstance(piece, Name) else piece
        if value is None:
            if len(slot.pieces) == 1:
                return None
            raise BadTaskSpecificationError(f"input '{getattr(piece, 'name', '')}' is None within a quoted text")
        told.append(str(value))
    return "".join(told)


def _identifier(slot: Slot, values: Mapping[str, Any]) -> str:
    text = _text(slot, values)
    if not text or "\0" in text:
        names = ", ".join(piece.name for piece in slot.pieces if isinstance(piece, Name))
        raise BadTaskSpecificationError(f"input '{names}' is no identifier: it is empty or has a zero byte")
    return slot.quote + text.replace(slot.quote, slot.quote * 2) + slot.quote
