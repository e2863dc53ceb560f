"""Requests and limits of containers: from the template, the execution's overrides and the platform.

Quantities stay the texts that they came as until `resolve` prints them, because a quantity that is copied or
cut prints in the form of the one that it came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
from flyteidl2.core import tasks_pb2

from propfan._speedups import quantities, requirements
from propfan.pluginmachinery.contexts import ResourceRequirements
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError

if TYPE_CHECKING:
    from flyteidl2.core.tasks_pb2 import Resources

GENERIC_GPU: Final = "gpu"
"""Stands for the accelerator's own resource name in templates and overrides."""

CPU: Final = "cpu"
MEMORY: Final = "memory"
EPHEMERAL_STORAGE: Final = "ephemeral-storage"
STORAGE: Final = "storage"

_NAMES: Final = {1: CPU, 2: GENERIC_GPU, 3: MEMORY, 5: EPHEMERAL_STORAGE}
"""``core.Resources.ResourceName`` to Kubernetes; the others have no counterpart."""

printed = requirements.printed
_value = requirements.value


class Requirements(msgspec.Struct):
    """Requests and limits on their way through the conversion; the dicts are this object's own."""

    requests: dict[str, str]
    limits: dict[str, str]

    def rename_gpu(self, name: str) -> None:
        for quantities_by_name in (self.requests, self.limits):
            if GENERIC_GPU in quantities_by_name:
                quantities_by_name[name] = quantities_by_name.pop(GENERIC_GPU)


def of_template(resources: Resources) -> Requirements:
    """The template's resources under their Kubernetes names, without zeros.

    Raises:
        PermanentError: a value is no quantity; without a code.
    """
    requests, limits = _of_serialised(resources.SerializeToString())
    return Requirements(requests.copy(), limits.copy())


@lru_cache(maxsize=1024)
def _of_serialised(serialised: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Requests and limits, which nobody may change: templates ask for the same few things."""
    resources = tasks_pb2.Resources.FromString(serialised)
    return _entries(resources.requests), _entries(resources.limits)


def _entries(entries: Iterable[Resources.ResourceEntry]) -> dict[str, str]:
    found = {}
    for entry in entries:
        value = entry.value
        try:
            is_zero = not _value(value)
        except quantities.QuantityError as error:
            raise PermanentError("", f"Failed to parse resource as a valid quantity.: {error}") from None
        name = _NAMES.get(entry.name)
        if name is not None and not is_zero:
            found[name] = value
    return found


def of_execution(wanted: ResourceRequirements | None, what: str) -> Requirements:
    """A copy of what the execution or the platform asks for.

    Raises:
        BadTaskSpecificationError: a value is no quantity.
    """
    if wanted is None:
        return Requirements({}, {})
    copied = Requirements(dict(wanted.requests), dict(wanted.limits))
    for kind, entries in (("requests", copied.requests), ("limits", copied.limits)):
        for name, value in entries.items():
            try:
                _value(value)
            except (quantities.QuantityError, TypeError) as error:
                raise BadTaskSpecificationError(f"{what}.{kind}[{name}] {value!r}: {error}") from None
    return copied


def of_container(container: Mapping[str, Any]) -> Requirements:
    resources = container.get("resources") or {}
    return Requirements(dict(resources.get("requests") or {}), dict(resources.get("limits") or {}))


class Platform(msgspec.Struct, frozen=True):
    """Defaults and ceilings: the execution's, completed by configuration.

    Attributes:
        bounded: Resources beside cpu and memory that are filled in and cut: accelerators and disk space.
    """

    requests: Mapping[str, str]
    limits: Mapping[str, str]
    bounded: frozenset[str]

    def resolve(self, own: Requirements, container: Mapping[str, Any], *, assign: bool) -> dict[str, Any]:
        """``resources`` of a container in written form; claims that it had are kept.

        Args:
            own: What the container asks for; used up.
            assign: Fill in what is missing; otherwise only cut, and name cpu and memory even when zero.
        """
        resolved = requirements.resolve(own.requests, own.limits, self.requests, self.limits, self.bounded, assign)
        if claims := (container.get("resources") or {}).get("claims"):
            resolved["claims"] = claims
        return resolved


def merge(base: Requirements, over: Requirements) -> Requirements:
    """``over`` laid over ``base``, key by key."""
    return Requirements(base.requests | over.requests, base.limits | over.limits)
