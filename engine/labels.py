"""Labels and their selectors: what can be one, and which objects are meant.

The rules are those of apimachinery's ``pkg/util/validation`` and ``pkg/labels``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from propfan.engine.cluster import LabelSelector
from propfan.pluginmachinery.errors import BadRequestError

MAX_PREFIX_CHARACTERS: Final = 253
MAX_LABEL_CHARACTERS: Final = 63

is_subdomain: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*").fullmatch
_qualified_part: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?").fullmatch


def is_label_value(text: str) -> bool:
    return not text or (len(text) <= MAX_LABEL_CHARACTERS and _qualified_part(text) is not None)


def is_qualified_name(text: str) -> bool:
    """Whether it can be the key of a label, or a finalizer."""
    prefix, slash, part = text.rpartition("/")
    if slash and (len(prefix) > MAX_PREFIX_CHARACTERS or is_subdomain(prefix) is None):
        return False
    return len(part) <= MAX_LABEL_CHARACTERS and _qualified_part(part) is not None


def requirements(selector: LabelSelector | None) -> Sequence[tuple[str, frozenset[str]]]:
    """Each key with the values of which an object must have one, in the order of the keys.

    Raises:
        BadRequestError: no label can have such a key or value.
    """
    if not selector:
        return ()
    found = []
    for key in sorted(selector):
        wanted = selector[key]
        values = frozenset((wanted,) if isinstance(wanted, str) else wanted)
        if not is_qualified_name(key):
            raise BadRequestError("label selector", f"{key[:80]!r} is not the key of a label")
        for value in values:
            if not is_label_value(value):
                raise BadRequestError("label selector", f"{key}: {value[:80]!r} is not the value of a label")
        found.append((key, values))
    return tuple(found)


def as_text(selector: LabelSelector | None) -> str:
    """The selector in the grammar of ``labelSelector``.

    Raises:
        BadRequestError: as `requirements`.
    """
    return ",".join(_requirement(key, values) for key, values in requirements(selector))


def _requirement(key: str, values: frozenset[str]) -> str:
    if not values:
        return f"{key},!{key}"  # the grammar has no empty set: there, and not there
    if len(values) == 1:
        return f"{key}={next(iter(values))}"
    return f"{key} in ({','.join(sorted(values))})"
