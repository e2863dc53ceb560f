"""Requests and limits of containers: from the template, the execution's overrides and the platform.

Quantities stay the texts that they came as until `resolve` prints them, because a quantity that is copied or
cut prints in the form of the one that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan._speedups import quantities
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

_value: Callable[[str], int] = lru_cache(maxsize=8192)(quantities.nanos)
printed: Callable[[str], str] = lru_cache(maxsize=8192)(quantities.settled)


class Requirements(msgspec.Struct):
    """Requests and limits on their way through the conversion; the dicts are this object's own."""

    requests: dict[str, str]
    limits: dict[str, str]

    @property
    def names(self) -> set[str]:
        return self.requests.keys() | self.limits.keys()

    def rename_gpu(self, name: str) -> None:
        for quantities_by_name in (self.requests, self.limits):
            if GENERIC_GPU in quantities_by_name:
                quantities_by_name[name] = quantities_by_name.pop(GENERIC_GPU)


def of_template(resources: Resources) -> Requirements:
    """The template's resources under their Kubernetes names, without zeros.

    Raises:
        PermanentError: a value is no quantity; without a code.
    """
    return Requirements(_entries(resources.requests), _entries(resources.limits))


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


def of_execution(requirements: ResourceRequirements | None, what: str) -> Requirements:
    """A copy of what the execution or the platform asks for.

    Raises:
        BadTaskSpecificationError: a value is no quantity.
    """
    if requirements is None:
        return Requirements({}, {})
    copied = Requirements(dict(requirements.requests), dict(requirements.limits))
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


def written(resolved: Requirements, container: Mapping[str, Any]) -> dict[str, Any]:
    """``resources`` of a container: the resolved ones, and the claims that it had."""
    out: dict[str, Any] = {}
    if claims := (container.get("resources") or {}).get("claims"):
        out["claims"] = claims
    if resolved.limits:
        out["limits"] = {name: printed(value) for name, value in resolved.limits.items()}
    if resolved.requests:
        out["requests"] = {name: printed(value) for name, value in resolved.requests.items()}
    return out


class Platform(msgspec.Struct, frozen=True):
    """Defaults and ceilings: the execution's, completed by configuration.

    Attributes:
        accelerators: Every resource name that stands for an accelerator.
    """

    requests: Mapping[str, str]
    limits: Mapping[str, str]
    accelerators: frozenset[str]

    def resolve(self, own: Requirements, *, assign: bool) -> Requirements:
        """Fill in and cut to the ceilings; resources that the platform knows nothing of pass through.

        Args:
            assign: Fill in what is missing; otherwise only cut, and name cpu and memory even when zero.
        """
        names = own.names
        for name in (CPU, MEMORY):
            self._adjust(own, name, assign=assign)
        for name in sorted(names & self.accelerators):
            self._adjust(own, name, assign=assign)
        if EPHEMERAL_STORAGE in names:
            self._adjust(own, EPHEMERAL_STORAGE, assign=assign)
        return own

    def _adjust(self, own: Requirements, name: str, *, assign: bool) -> None:
        request, limit = own.requests.get(name, "0"), own.limits.get(name, "0")
        if assign:
            if not _value(request):
                request = limit if _value(limit) else self.requests.get(name, "0")
            if not _value(limit):
                limit = request
        ceiling = self.limits.get(name, "0")
        limit = _cut(limit, ceiling)
        own.requests[name] = _cut(_cut(request, ceiling), limit)
        own.limits[name] = limit


def _cut(value: str, ceiling: str) -> str:
    return ceiling if 0 != _value(ceiling) < _value(value) else value


def merge(base: Requirements, over: Requirements) -> Requirements:
    """``over`` laid over ``base``, key by key."""
    return Requirements(base.requests | over.requests, base.limits | over.limits)
