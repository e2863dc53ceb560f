"""JSON and YAML text as values that remember their lines, and as protobuf messages.

All problems of a document are reported together, each with its line (YAML) and field path.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from propfan.pluginmachinery.errors import DecodeError

__all__ = ["Document", "FieldPath", "Problems", "message_of", "nearest", "read_documents"]

FieldPath = tuple[str | int, ...]
AnyField = Any  # google.protobuf.descriptor.FieldDescriptor, or the C twin that the stubs tell apart
M = TypeVar("M", bound=Message)

_NODE_LIMIT: Final = 200_000
"""Values in a document, aliases counted each time; a small file of aliases can mean billions."""
_DEPTH_LIMIT: Final = 100
_PROBLEM_LIMIT: Final = 20
_HINTS: Final = {
    FieldDescriptor.CPPTYPE_STRING: "a text: put it in quotes",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_MESSAGE: "an object",
}


class Document(msgspec.Struct, frozen=True):
    """One value out of a text.

    Attributes:
        source: File name, with ``[n]`` after it when the file has several documents.
        lines: Line of a value by its path, counted from 1; empty for JSON.
    """

    source: str
    value: Any
    lines: Mapping[FieldPath, int] = {}

    def where(self, path: FieldPath) -> str:
        """``line 3: metadata.timeout``, or what is known of it."""
        known = next((path[:n] for n in range(len(path), -1, -1) if path[:n] in self.lines), None)
        line = f"line {self.lines[known]}: " if known is not None else ""
        return line + (dotted(path) or "document")


class Problems:
    """What is wrong with one source, collected so that it is told at once."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._found: list[str] = []

    def add(self, problem: str) -> None:
        """Notes one; raises ``DecodeError`` when there are more than anyone would read."""
        self._found.append(problem)
        if len(self._found) == _PROBLEM_LIMIT:
            self._found.append("and perhaps more")
            self.raise_any()

    def raise_any(self) -> None:
        """Raises ``DecodeError`` when there are some."""
        if self._found:
            raise DecodeError(self.source, "; ".join(self._found))


def dotted(path: FieldPath) -> str:
    """``container.args[2]``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'retries'?``, or the names there are when none is near."""
    names = sorted(set(known))
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"; did you mean '{close[0]}'?"
    return f"; there are {', '.join(names)}" if names else ""


def read_documents(source: str, content: bytes, *, is_json: bool = False) -> Sequence[Document]:
    """Every document of a YAML or JSON text that is not empty.

    Raises:
        DecodeError: not UTF-8, not YAML or JSON, a key twice in one mapping, or nothing in it.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DecodeError(source, f"not UTF-8 text: byte {error.start} is {content[error.start]:#04x}") from error
    documents = list(_read_json(source, text) if is_json else _read_yaml(source, text))
    if not documents:
        raise DecodeError(source, "empty")
    if len(documents) > 1:
        documents = [msgspec.structs.replace(d, source=f"{source}[{n}]") for n, d in enumerate(documents)]
    return documents


def _read_json(source: str, text: str) -> Iterator[Document]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if twice := _twice(name for name, _ in pairs):
            raise ValueError(f"key '{twice}' occurs twice in an object")
        return found

    if not text.strip():
        return
    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}"
        raise DecodeError(source, problem) from error
    except RecursionError as error:
        raise DecodeError(source, f"nested more than {_DEPTH_LIMIT} levels") from error
    except ValueError as error:
        raise DecodeError(source, str(error)) from error
    level = [value]
    for _ in range(_DEPTH_LIMIT + 1):
        level = [inner for outer in level for _, inner in _members(outer)]
    if level:
        raise DecodeError(source, f"nested more than {_DEPTH_LIMIT} levels")
    yield Document(source, value)


def _twice(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


class _Loader(yaml.CSafeLoader):
    """Dates stay texts, as protobuf's JSON wants them."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(source: str, text: str) -> Iterator[Document]:
    try:
        _refuse_deep(source, text)
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node() said there is one"
            lines: dict[FieldPath, int] = {}
            value = _YamlValue(source, loader, lines).of(node, ())
            if value is not None:
                yield Document(source, value, lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise DecodeError(source, f"{at}not YAML: {error.problem or error.context}") from error
    except RecursionError as error:
        raise DecodeError(source, "nested too deeply") from error
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:  # a tag can name a type that does not fit
        raise DecodeError(source, f"not YAML: {' '.join(str(error).split())}") from error


def _refuse_deep(source: str, text: str) -> None:
    """Nodes are composed by recursion in C, where too many levels end the process."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEPTH_LIMIT:
                mark = event.start_mark
                raise DecodeError(
                    source, f"line {mark.line + 1 if mark else '?'}: nested more than {_DEPTH_LIMIT} levels"
                )
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _YamlValue:
    """Python values of YAML nodes, noting lines and spending the budget of nodes."""

    def __init__(self, source: str, loader: _Loader, lines: dict[FieldPath, int]) -> None:
        self._source = source
        self._loader = loader
        self._lines = lines

    def of(self, node: yaml.Node, path: FieldPath) -> Any:
        line = node.start_mark.line + 1
        if len(self._lines) >= _NODE_LIMIT or len(path) > _DEPTH_LIMIT:
            raise DecodeError(self._source, f"line {line}: more than {_NODE_LIMIT} values or {_DEPTH_LIMIT} levels")
        self._lines[path] = line
        if isinstance(node, yaml.SequenceNode):
            return [self.of(item, (*path, n)) for n, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        return self._loader.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: FieldPath) -> dict[str, Any]:
        if twice := _twice(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = node.start_mark.line + 1
            raise DecodeError(self._source, f"line {line}: {dotted((*path, twice))}: the key occurs twice")
        self._loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise DecodeError(self._source, f"line {line}: {dotted(path) or 'document'}: a key must be a text")
            found[key.value] = self.of(value, (*path, key.value))
            self._lines[*path, key.value] = line
        return found


def message_of(document: Document, message_type: type[M]) -> M:
    """The message whose protobuf JSON the document is; field names in either spelling.

    Raises:
        DecodeError: with every field that is unknown or has a value that does not fit.
    """
    problems = Problems(document.source)
    message = message_type()
    _Filler(document, problems).fill(message, document.value, ())
    problems.raise_any()
    return message


class _Filler:
    def __init__(self, document: Document, problems: Problems) -> None:
        self._document = document
        self._problems = problems

    def fill(self, message: Message, value: Any, path: FieldPath) -> None:
        if not isinstance(value, dict):
            self._refuse(path, f"must be an object, is {_kind(value)}")
            return
        descriptor = message.DESCRIPTOR
        chosen: dict[str, str] = {}
        for key, item in value.items():
            field = descriptor.fields_by_name.get(key) or descriptor.fields_by_camelcase_name.get(key)
            if field is None:
                self._refuse(
                    (*path, key),
                    "no such field"
                    + nearest(key, (f.camelcase_name if key != key.lower() else f.name for f in descriptor.fields)),
                )
                continue
            union = field.containing_oneof.name if field.containing_oneof else field.name
            if (other := chosen.setdefault(union, key)) != key:
                self._refuse((*path, key), f"can not be set beside {other}")
            elif item is not None:
                self._set(message, field, item, (*path, key))

    def _set(self, message: Message, field: AnyField, item: Any, path: FieldPath) -> None:
        kind = field.message_type
        if bad := _non_finite(item, path):
            self._refuse(bad, "must be a finite number")
        elif kind is None or kind.full_name.startswith("google.protobuf.") or kind.GetOptions().map_entry:
            self._parse(message, field, item, path)
        elif not field.is_repeated:
            self.fill(getattr(message, field.name), item, path)
            getattr(message, field.name).SetInParent()
        elif not isinstance(item, list):
            self._refuse(path, f"must be a list, is {_kind(item)}")
        else:
            for n, element in enumerate(item):
                self.fill(getattr(message, field.name).add(), element, (*path, n))

    def _parse(self, message: Message, field: AnyField, item: Any, path: FieldPath) -> None:
        if field.is_repeated and isinstance(item, list):
            for n, element in enumerate(item):
                self._parse_one(message, field, [element], element, (*path, n))
        elif field.is_repeated and isinstance(item, dict):
            for name, element in item.items():
                self._parse_one(message, field, {name: element}, element, (*path, name))
        else:
            self._parse_one(message, field, item, item, path)

    def _parse_one(self, message: Message, field: AnyField, item: Any, shown: Any, path: FieldPath) -> None:
        names = (field.name, field.camelcase_name)
        try:
            if field.enum_type is not None and not isinstance(shown, str):
                # Protobuf would take any number, and true for 1.
                raise TypeError("not a name")  # noqa: TRY301
            # ParseDict empties a list or map before it fills it, so elements meet in a message of their own.
            element = type(message)()
            json_format.ParseDict({field.name: item}, element)
            message.MergeFrom(element)
        except (json_format.ParseError, TypeError, ValueError, AttributeError) as error:
            self._refuse(
                path,
                f"must be {_expected(field, is_element=path[-1] not in names)}, is {_kind(shown)} ({_reason(error)})",
            )

    def _refuse(self, path: FieldPath, problem: str) -> None:
        self._problems.add(f"{self._document.where(path)}: {problem}")


def _expected(field: AnyField, *, is_element: bool) -> str:
    if field.enum_type is not None:
        return f"one of {', '.join(value.name for value in field.enum_type.values)}"
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.Duration":
        return "a duration such as '90s'"
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return "a text: put it in quotes" if is_element else "an object of texts"
    hint = _HINTS.get(field.cpp_type, "a number in range")
    return f"a list, each {hint}" if field.is_repeated and not is_element else hint


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _reason(error: Exception) -> str:
    """The innermost message of ``ParseError``, which nests one per level."""
    lines = str(error).splitlines()
    return lines[0].rsplit("field: ", 1)[-1].rstrip(".") if lines else type(error).__name__


def _non_finite(value: Any, path: FieldPath) -> FieldPath | None:
    if isinstance(value, float) and not math.isfinite(value):
        return path
    return next((bad for name, item in _members(value) if (bad := _non_finite(item, (*path, name)))), None)


def _members(value: Any) -> Iterable[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()
