"""The runtime environment of a job, which SDKs may send as base64 of JSON and KubeRay wants as YAML.

The YAML is the 1.1 that ``gopkg.in/yaml.v2`` writes, for Ray reads it with a parser of that version: a text that
it would take for another type is quoted.
"""

from __future__ import annotations

import binascii
import functools
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import yaml
from yaml.emitter import Emitter, ScalarAnalysis

from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.pluginmachinery.literals import float_text

_ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
_BASE64: Final = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_PADDING: Final = ord("=")

_WORDS: Final = ("y", "yes", "true", "on", "n", "no", "false", "off", "null")
_CONSTANTS: Final = frozenset(
    {"", "~", "<<", ".nan", ".NaN", ".NAN"}
    | {spelt for word in _WORDS for spelt in (word, word.capitalize(), word.upper())}
    | {f"{sign}{spelt}" for sign in ("", "+", "-") for spelt in (".inf", ".Inf", ".INF")}
)
_NUMBER: Final = re.compile(
    r"""[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?
    |[-+]?0(?:[xX][0-9a-fA-F]+|[oO]?[0-7]+|[bB][01]+)""",
    re.VERBOSE | re.ASCII,
)
_BASE_60: Final = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?", re.ASCII)
_DATE: Final = re.compile(
    r"""[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}
    (?:[Tt][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?(?:Z|[-+][0-9]{2}:[0-9]{2})
    |[ ][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?)?""",
    re.VERBOSE | re.ASCII,
)
_ESCAPED: Final = frozenset('"\\\u2028\u2029\ufeff')
_DIGITS: Final = re.compile(r"[0-9]*", re.ASCII)


def yaml_of(encoded: str) -> str:
    """The runtime environment as YAML.

    Raises:
        PermanentError: ``encoded`` is no base64, or not that of a JSON object; without a code.
    """
    content = _decode_base64(encoded.encode())
    try:
        environment = msgspec.json.decode(content)
    except (ValueError, RecursionError) as error:
        raise PermanentError("", f"the runtime environment is no JSON: {error}") from None
    if environment is not None and not isinstance(environment, dict):
        raise PermanentError("", f"the runtime environment is no JSON object but a {type(environment).__name__}")
    return _written(environment or {})


def with_variables(environment: str, variables: Mapping[str, str]) -> str:
    """A runtime environment with more variables; its own win. The YAML is JSON, which YAML allows.

    Raises:
        BadTaskSpecificationError: ``environment`` is no YAML of a map, or its ``env_vars`` are none.
    """
    field = "invalid TaskSpecification: the runtime environment"
    try:
        loaded = yaml.load(environment, Loader=_Loader) if environment.strip() else {}  # noqa: S506 - it is a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadTaskSpecificationError(f"{field} is no YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise BadTaskSpecificationError(f"{field} must be a map, is a {type(loaded).__name__}")
    own = loaded.get("env_vars") or {}
    if not isinstance(own, dict):
        raise BadTaskSpecificationError(f"{field}: env_vars must be a map, is a {type(own).__name__}")
    try:
        return msgspec.json.encode({**loaded, "env_vars": {**variables, **own}}).decode()
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise BadTaskSpecificationError(f"{field} holds what JSON can not: {error}") from None


class _Loader(yaml.SafeLoader):
    """Without aliases, of which a few can stand for more than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not taken here")
        return super().compose_node(parent, index)


def _decode_base64(encoded: bytes) -> bytes:
    """Standard base64 with padding; line breaks are skipped.

    Raises:
        PermanentError: it is none; the message tells the first byte at fault.
    """
    joined = encoded.translate(None, b"\r\n")
    if _BASE64.fullmatch(joined) is None:
        raise PermanentError("", f"illegal base64 data at input byte {_first_bad(encoded)}")
    return binascii.a2b_base64(joined)


def _first_bad(encoded: bytes) -> int:
    in_quantum = 0
    significant = [(index, char) for index, char in enumerate(encoded) if char not in b"\r\n"]
    for place, (index, char) in enumerate(significant):
        if char in _ALPHABET:
            in_quantum = (in_quantum + 1) % 4
        elif char != _PADDING or in_quantum < 2:
            return index
        else:
            rest = significant[place + 1 :]
            if in_quantum == 2:
                if not rest:
                    return len(encoded)
                if rest[0][1] != _PADDING:
                    return rest[0][0] - 1
                rest = rest[1:]
            return rest[0][0] if rest else index
    return len(encoded) - in_quantum


class _GoEmitter(Emitter):
    """Writes scalars as libyaml and what is made after it does, where PyYAML's own writer differs."""

    def analyze_scalar(self, scalar: str) -> ScalarAnalysis:
        analysis = super().analyze_scalar(scalar)
        analysis.empty = False  # an empty key is as good as any
        analysis.multiline |= "\r" in scalar
        if any(char in "\r\x85" or char > "\uffff" for char in scalar):
            analysis.allow_flow_plain = analysis.allow_block_plain = False
            analysis.allow_single_quoted = analysis.allow_block = False
        return analysis

    def write_double_quoted(self, text: str, split: bool = True) -> None:  # noqa: FBT001, FBT002 - PyYAML's signature
        self.write_indicator('"', True)
        for index, char in enumerate(text):
            is_inside = 0 < index < len(text) - 1 and text[index - 1] != " "
            if char == " " and split and is_inside and self.column > self.best_width:
                self.write_indent()
                self._put("\\" if text[index + 1] == " " else "")
            else:
                self._put(_escaped(char))
        self.write_indicator('"', False)

    def _put(self, text: str) -> None:
        self.stream.write(text)
        self.column += len(text)


def _escaped(char: str) -> str:
    if char not in _ESCAPED and (" " <= char <= "~" or "\xa0" <= char <= "\ud7ff" or "\ue000" <= char <= "\ufffd"):
        return char
    if char in Emitter.ESCAPE_REPLACEMENTS:
        return f"\\{Emitter.ESCAPE_REPLACEMENTS[char]}"
    code = ord(char)
    return f"\\x{code:02X}" if code <= 0xFF else f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _written(environment: dict[str, Any]) -> str:
    text = io.StringIO()
    emitter = _GoEmitter(text, width=80, allow_unicode=True)
    for event in (
        yaml.StreamStartEvent(),
        yaml.DocumentStartEvent(),
        *_events(environment),
        yaml.DocumentEndEvent(),  # the end of the stream would be marked after some texts
    ):
        emitter.emit(event)
    return text.getvalue()


def _events(value: Any) -> Iterator[yaml.Event]:
    match value:
        case dict():
            yield yaml.MappingStartEvent(None, None, True, flow_style=False)
            for key in sorted(value, key=functools.cmp_to_key(_compare_keys)):
                yield _scalar(key)
                yield from _events(value[key])
            yield yaml.MappingEndEvent()
        case list():
            yield yaml.SequenceStartEvent(None, None, True, flow_style=False)
            for item in value:
                yield from _events(item)
            yield yaml.SequenceEndEvent()
        case str():
            yield _scalar(value)
        case None | bool():
            yield yaml.ScalarEvent(None, None, (True, False), "null" if value is None else str(value).lower())
        case _:
            yield yaml.ScalarEvent(None, None, (True, False), float_text(float(value)))


def _scalar(text: str) -> yaml.Event:
    style = "|" if "\n" in text else '"' if _reads_as_another_type(text) else None
    return yaml.ScalarEvent(None, None, (True, True), text, style=style)


def _reads_as_another_type(text: str) -> bool:
    if text in _CONSTANTS or _BASE_60.fullmatch(text) or _DATE.fullmatch(text):
        return True
    return text[:1] != "_" and _NUMBER.fullmatch(text.replace("_", "")) is not None


def _compare_keys(left: str, right: str) -> int:
    """Letters after all else, runs of digits by their value."""
    if left == right:
        return 0
    at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if at == len(left) or at == len(right):
        return len(left) - len(right)
    a, b = left[at], right[at]
    if a.isalpha() or b.isalpha():
        return ord(a) - ord(b) if a.isalpha() and b.isalpha() else 1 if a.isalpha() else -1
    while at > 0 and left[at - 1].isdecimal():
        at -= 1
    ours, theirs = _number_at(left, at), _number_at(right, at)
    if ours != theirs:
        return -1 if ours < theirs else 1
    return ord(a) - ord(b)


def _number_at(text: str, at: int) -> tuple[int, int]:
    """Value and length of the digits there."""
    digits = _DIGITS.match(text, at)
    assert digits is not None  # also no digits match
    return int(digits[0] or "0"), len(digits[0])
