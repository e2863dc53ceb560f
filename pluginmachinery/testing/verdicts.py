"""What every verdict and every object must hold, whatever the plugin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.phases import Phase, PhaseInfo

MAX_VERSION: Final = 2**32 - 1
MAX_ANNOTATIONS_BYTES: Final = 256 * 1024
"""All keys and values of an object's annotations (Kubernetes ``TotalAnnotationSizeLimitB``)."""

_NAME: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def problems_of_verdict(info: object, now: datetime) -> tuple[str, ...]:
    """What is wrong with a plugin's verdict, as sentences; empty when nothing is."""
    if not isinstance(info, PhaseInfo):
        return (f"must be a PhaseInfo, is {type(info).__name__}",)
    return tuple(_verdict(info, now))


def _verdict(info: PhaseInfo, now: datetime) -> Iterator[str]:
    phase: object = info.phase
    if not isinstance(phase, Phase):
        yield f"phase must be a Phase, is {phase!r}"
        return
    if not 0 <= info.version <= MAX_VERSION:
        yield f"version must be within 0 and {MAX_VERSION}, is {info.version}"
    if info.phase.is_failure:
        if info.error is None:
            yield f"{info.phase.name} must say why in error"
        elif not info.error.code or not info.error.message:
            yield f"the error of {info.phase.name} must have a code and a message, is {info.error!r}"
    elif info.error is not None:
        yield f"{info.phase.name} must have no error, has {info.error!r}"
    elif info.cleanup_on_failure:
        yield f"cleanup_on_failure is only for failures, not for {info.phase.name}"
    if info.recheck_at is not None:
        if info.phase.is_terminal:
            yield f"{info.phase.name} is final: recheck_at must be None"
        elif info.recheck_at.tzinfo is None:
            yield "recheck_at must have a time zone"
        elif info.recheck_at <= now:
            yield f"recheck_at must be later than now ({now}), is {info.recheck_at}"
    if info.info is not None:
        if info.info.occurred_at is not None and info.info.occurred_at.tzinfo is None:
            yield "info.occurred_at must have a time zone"
        try:
            msgspec.json.encode(info.info)
        except (TypeError, ValueError) as error:
            yield f"info must be JSON: {error}"


def problems_of_object(members: Mapping[str, Any], max_name_length: int) -> tuple[str, ...]:
    """What an API server would refuse in names, labels and annotations, of the object and its templates."""
    found = list(_metadata("metadata", members.get("metadata") or {}, max_name_length))
    found += [problem for path, metadata in _nested("", members) for problem in _metadata(path, metadata, 253)]
    return tuple(found)


def _nested(path: str, value: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            where = f"{path}.{name}" if path else name
            if name == "metadata" and path and isinstance(item, Mapping):
                yield where, item
            else:
                yield from _nested(where, item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nested(f"{path}[{index}]", item)


def _metadata(path: str, metadata: Mapping[str, Any], max_name_length: int) -> Iterator[str]:
    name = metadata.get("name", "")
    if name and (len(name) > max_name_length or not _SUBDOMAIN.fullmatch(name)):
        yield f"{path}.name: '{name}' must be a DNS-1123 subdomain of at most {max_name_length} characters"
    for key, value in (metadata.get("labels") or {}).items():
        if not _is_qualified(key):
            yield f"{path}.labels: '{key}' is no label key"
        if not isinstance(value, str) or (value and not _NAME.fullmatch(value)):
            yield f"{path}.labels.{key}: {value!r} is no label value"
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        if not _is_qualified(key.lower()):
            yield f"{path}.annotations: '{key}' is no annotation key"
        if isinstance(value, str):
            size += len(key.encode()) + len(value.encode())
        else:
            yield f"{path}.annotations.{key}: must be a string, is {type(value).__name__}"
    if size > MAX_ANNOTATIONS_BYTES:
        yield f"{path}.annotations: have {size} bytes, at most {MAX_ANNOTATIONS_BYTES} are allowed"


def _is_qualified(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    prefix_ok = len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix) is not None if slash else True
    return prefix_ok and _NAME.fullmatch(name) is not None
