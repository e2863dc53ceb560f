"""Conditions, by which most operators tell how their objects fare."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import msgspec

Time = Annotated[datetime, msgspec.Meta(tz=True)] | None
"""A time as Kubernetes writes one; ``None`` when it is unset."""

_NEVER: Final = datetime(1, 1, 1, tzinfo=UTC)


class Condition(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """``metav1.Condition``, without what nothing depends on."""

    type: str = ""
    status: str = ""
    last_transition_time: Time = None
    reason: str = ""
    message: str = ""

    @property
    def is_true(self) -> bool:
        return self.status == "True"


C = TypeVar("C", bound=Condition)


def newest_first(conditions: Sequence[C] | None) -> tuple[C, ...]:
    """The conditions by the time of their last change, which is told in whole seconds.

    Of one second, the later in the list is the newer: that is where operators put what is new.
    """
    if not conditions:
        return ()
    oldest_first = sorted(conditions, key=_changed_at)
    return tuple(reversed(oldest_first))


def current(conditions: Sequence[C] | None) -> C | None:
    """The newest condition that is true."""
    for condition in newest_first(conditions):
        if condition.is_true:
            return condition
    return None


def first_true(conditions: Sequence[C] | None, *types: str) -> C | None:
    """The first true condition of one of the types."""
    return next((c for c in conditions or () if c.is_true and c.type in types), None)


def _changed_at(condition: Condition) -> datetime:
    return condition.last_transition_time or _NEVER
