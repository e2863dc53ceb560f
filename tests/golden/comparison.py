"""When an output counts as the recorded one.

JSON values are equal by type and value, lists in order. On top of that come the marks that the
vectors use for what is random or depends on a compressor, and the few places where propfan differs on
purpose. Those are recognised by what the case holds, never by its id.
"""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote_plus

import msgspec

RANDOM_NAME: Final = "<RANDOM4>"
AZURE_QUERY: Final = "<AZURE_GZIP_QUERY>"
_RANDOM_NAME_PATTERN: Final = "(?:[bcdfghjklmnpqrstvwxz2456789]{4}|http)"
_GO_EXPANSION: Final = re.compile(r"\$(?:\{\w+\}|\w+|\$)")

TEMPLATE_MUTATED: Final = "template_mutated"
EATEN_DOLLAR: Final = "$ in a storage path"
LOWER_CASE_KIND: Final = "kind: pod"
PANIC: Final = "PANIC"


class Difference(msgspec.Struct, frozen=True):
    """One place where the two outputs differ. ``cause`` names a difference on purpose; else it is ``""``."""

    path: str
    expected: Any
    actual: Any
    cause: str = ""


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = _Absent()


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """Every difference, depth first; empty when the outputs agree."""
    mutated = expected.get("template_mutated") is True
    wanted = {name: value for name, value in expected.items() if name != "template_mutated"}
    dollar_paths = sorted({p for p in (case_input.get("paths") or {}).values() if "$" in p}, key=len, reverse=True)
    found: list[Difference] = []
    _walk("", wanted, actual, dollar_paths, found)
    if mutated:
        return [msgspec.structs.replace(d, cause=d.cause or TEMPLATE_MUTATED) for d in found]
    return found


def _walk(path: str, expected: Any, actual: Any, dollar_paths: list[str], found: list[Difference]) -> None:
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        if "message_exact" in expected:
            _compare_errors(path, expected, actual, found)
        elif "azure_query" in expected:
            _compare_azure_links(path, expected, actual, dollar_paths, found)
        else:
            for name in sorted(expected.keys() | actual.keys()):
                _walk(f"{path}.{name}", expected.get(name, ABSENT), actual.get(name, ABSENT), dollar_paths, found)
    elif isinstance(expected, list) and isinstance(actual, list | tuple):
        for i in range(max(len(expected), len(actual))):
            left = expected[i] if i < len(expected) else ABSENT
            right = actual[i] if i < len(actual) else ABSENT
            _walk(f"{path}[{i}]", left, right, dollar_paths, found)
    elif isinstance(expected, str) and isinstance(actual, str):
        if expected != actual and not _matches_random_name(expected, actual):
            found.append(Difference(path, expected, actual, _cause(path, expected, actual, dollar_paths)))
    elif not _same_scalar(expected, actual):
        panic = path.endswith("error") and isinstance(expected, Mapping) and expected.get("code") == PANIC
        found.append(Difference(path, expected, actual, PANIC if panic and actual is not ABSENT else ""))


def _same_scalar(expected: Any, actual: Any) -> bool:
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return type(expected) in (int, float, type(None)) and expected == actual


def _compare_errors(path: str, expected: Mapping[str, Any], actual: Mapping[str, Any], found: list[Difference]) -> None:
    if expected["code"] == PANIC:
        found.append(Difference(path, PANIC, actual, PANIC))
        return
    if expected["code"] != actual.get("code"):
        found.append(Difference(f"{path}.code", expected["code"], actual.get("code", ABSENT)))
    if expected["message_exact"] and not _matches_random_name(expected["message"], str(actual.get("message"))):
        found.append(Difference(f"{path}.message", expected["message"], actual.get("message", ABSENT)))


def _compare_azure_links(
    path: str,
    expected: Mapping[str, Any],
    actual: Mapping[str, Any],
    dollar_paths: list[str],
    found: list[Difference],
) -> None:
    base = expected["uri"].removesuffix(AZURE_QUERY)
    uri = str(actual.get("uri", ""))
    try:
        query = gzip.decompress(base64.b64decode(unquote_plus(uri.removeprefix(base)), validate=True)).decode()
    except (OSError, EOFError, ValueError):
        query = "(no gzip query)"
    readable = {**actual, "uri": base + AZURE_QUERY if uri.startswith(base) else uri, "azure_query": query}
    for name in sorted(expected.keys() | readable.keys()):
        _walk(f"{path}.{name}", expected.get(name, ABSENT), readable.get(name, ABSENT), dollar_paths, found)


def _matches_random_name(expected: str, actual: str) -> bool:
    if RANDOM_NAME not in expected:
        return expected == actual
    pattern = _RANDOM_NAME_PATTERN.join(re.escape(part) for part in expected.split(RANDOM_NAME))
    return re.fullmatch(pattern, actual) is not None


def _cause(path: str, expected: str, actual: str, dollar_paths: list[str]) -> str:
    if path.endswith(".kind") and (expected, actual) == ("pod", "Pod"):
        return LOWER_CASE_KIND
    pattern = re.escape(actual)
    for p in dollar_paths:
        eaten = _GO_EXPANSION.sub(lambda m: "$" if m[0] == "$$" else "", p)
        pattern = pattern.replace(re.escape(p), f"(?:{re.escape(p)}|{re.escape(eaten)})")
    return EATEN_DOLLAR if dollar_paths and re.fullmatch(pattern, expected) else ""
