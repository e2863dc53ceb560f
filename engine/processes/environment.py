"""A container's environment and command line, as a kubelet makes them."""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from propfan._speedups import quantities
from propfan.engine.cluster import Cluster, Kind
from propfan.engine.processes.pods import (
    Container,
    EnvFromSource,
    EnvVarSource,
    KeySelector,
    Pod,
    ResourceFieldSelector,
)
from propfan.engine.processes.refusals import RefusedError
from propfan.pluginmachinery.errors import ApiError, NotFoundError

SECRET: Final = Kind("", "v1", "Secret", "secrets")
CONFIG_MAP: Final = Kind("", "v1", "ConfigMap", "configmaps")

INHERITED: Final = (
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "SSL_CERT_DIR", "SSL_CERT_FILE",
    "TMPDIR", "TZ", "USER",
)  # fmt: skip
"""What a container takes over from the engine's environment; nothing else of it is visible.

They stand for what an image would set. A container's own variables win, and ``$(NAME)`` does not
see them. PATH is preceded by the folder of the engine's interpreter, so that ``python`` and the
entry points installed beside it (``a0``) are the engine's own.
"""

_OF_STORES: Final = ("AWS_", "AZURE_", "FLYTE_AWS_", "GOOGLE_")

_OF_THE_PLACE: Final = {"FSSPEC_FILE_AUTO_MKDIR": "true"}
"""Flyte's SDK writes by fsspec, which makes no folders: in a ``file://`` store no output would find its own."""

_NANOS: Final = 10**9
_reference = re.compile(r"\$(?:\$|\(([^)]*)\))").sub
_subscript = re.compile(r"metadata\.(labels|annotations)\['(.+)'\]").fullmatch


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces ``$(NAME)`` where the name is known; ``$$`` is one dollar, so ``$$(NAME)`` stays as text."""

    def replacement(match: re.Match[str]) -> str:
        name = match[1]
        return "$" if name is None else variables.get(name, match[0])

    return _reference(replacement, text)


def inherited(names: Sequence[str], environment: Mapping[str, str] = os.environ) -> Mapping[str, str]:
    """The allowed part of the engine's own environment, over what the place itself asks for."""
    found = {**_OF_THE_PLACE, **{name: environment[name] for name in names if name in environment}}
    if "PATH" in names:
        found["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return found


def of_stores(environment: Mapping[str, str] = os.environ) -> Sequence[str]:
    """Names of the variables by which SDKs find their object store: tasks whose outputs go there need them too."""
    return sorted(name for name in environment if name.startswith(_OF_STORES))


class Environment(msgspec.Struct, frozen=True):
    """The pod's variables, and the whole with what is inherited."""

    own: Mapping[str, str]
    whole: Mapping[str, str]

    def command_line(self, container: Container) -> Sequence[str]:
        return [expand(word, self.own) for word in (*(container.command or ()), *(container.args or ()))]


async def resolve(
    cluster: Cluster,
    pod: Pod,
    container: Container,
    *,
    base: Mapping[str, str],
    allocatable: Callable[[str], int],
) -> Environment:
    """Everything that the container's ``env`` and ``envFrom`` say, later entries over earlier ones.

    Args:
        base: What is inherited.
        allocatable: What the node has of a resource, in nanos; stands in for a limit that is not set.

    Raises:
        RefusedError: something is missing or is not provided.
    """
    objects = _Objects(cluster, pod.metadata.namespace)
    own: dict[str, str] = {}
    for many in container.env_from or ():
        own.update(await _from(objects, many))
    for variable in container.env or ():
        if variable.value_from is None:
            own[variable.name] = expand(variable.value or "", own)
        elif (value := await _value(objects, pod, container, variable.value_from, allocatable)) is not None:
            own[variable.name] = value
    for name, value in own.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise RefusedError(f"env {name!r}: a name can have no '=', and nothing in it a NUL byte")
    return Environment(own, {"HOSTNAME": pod.metadata.name, **base, **own})


class _Objects:
    """The Secrets and ConfigMaps that one container refers to, each read once."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._read: dict[tuple[Kind, str], Mapping[str, str | bytes] | None] = {}

    async def get(self, kind: Kind, reference: KeySelector) -> Mapping[str, str | bytes] | None:
        """Its entries; ``None`` when it is not there and need not be."""
        key = (kind, reference.name)
        if key not in self._read:
            self._read[key] = await self._fetch(kind, reference.name)
        if self._read[key] is None and not reference.optional:
            raise RefusedError(f'{kind.kind.lower()} "{reference.name}" not found', is_final=False)
        return self._read[key]

    async def _fetch(self, kind: Kind, name: str) -> Mapping[str, str | bytes] | None:
        try:
            observed = await self._cluster.get(kind, self._namespace, name)
        except NotFoundError:
            return None
        except ApiError as error:
            raise RefusedError(str(error), is_final=False) from error
        try:
            if kind is CONFIG_MAP:
                return msgspec.json.decode(observed.raw, type=_ConfigMap).data or {}
            secret = msgspec.json.decode(observed.raw, type=_Secret)
            decoded = {name: base64.b64decode(value, validate=True) for name, value in (secret.data or {}).items()}
        except (msgspec.DecodeError, binascii.Error) as error:
            raise RefusedError(f"{observed}: {error}", is_final=False) from error
        return {**decoded, **(secret.string_data or {})}


class _ConfigMap(msgspec.Struct):
    data: dict[str, str] | None = None


class _Secret(msgspec.Struct, rename="camel"):
    data: dict[str, str] | None = None
    string_data: dict[str, str] | None = None


def _text(value: str | bytes, where: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(f"{where}: its value is not UTF-8 and can be no environment variable") from error


async def _from(objects: _Objects, source: EnvFromSource) -> Mapping[str, str]:
    if source.config_map_ref is not None:
        kind, reference = CONFIG_MAP, source.config_map_ref
    elif source.secret_ref is not None:
        kind, reference = SECRET, source.secret_ref
    else:
        return {}
    entries = await objects.get(kind, reference)
    return {
        source.prefix + key: _text(value, f"key {key} of {kind.kind} {reference.name}")
        for key, value in (entries or {}).items()
    }


async def _value(
    objects: _Objects, pod: Pod, container: Container, source: EnvVarSource, allocatable: Callable[[str], int]
) -> str | None:
    if source.field_ref is not None:
        return _field(pod, source.field_ref.field_path)
    if source.resource_field_ref is not None:
        return _resource(pod, container, source.resource_field_ref, allocatable)
    for kind, reference in ((SECRET, source.secret_key_ref), (CONFIG_MAP, source.config_map_key_ref)):
        if reference is None:
            continue
        entries = await objects.get(kind, reference)
        if entries is not None and reference.key in entries:
            return _text(entries[reference.key], f"key {reference.key} of {kind.kind} {reference.name}")
        if reference.optional:
            return None
        where = f"{kind.kind} {pod.metadata.namespace}/{reference.name}"
        raise RefusedError(f"couldn't find key {reference.key} in {where}", is_final=False)
    raise RefusedError("env: valueFrom names no source that a local process can be given")


def _field(pod: Pod, path: str) -> str:
    if (match := _subscript(path)) is not None:
        values = pod.metadata.labels if match[1] == "labels" else pod.metadata.annotations
        return values.get(match[2], "")
    known = {
        "metadata.name": pod.metadata.name,
        "metadata.namespace": pod.metadata.namespace,
        "metadata.uid": pod.metadata.uid,
        "spec.nodeName": pod.spec.node_name,
        "spec.serviceAccountName": pod.spec.service_account_name,
        "status.hostIP": "127.0.0.1",
        "status.hostIPs": "127.0.0.1",
        "status.podIP": "127.0.0.1",
        "status.podIPs": "127.0.0.1",
    }
    if path not in known:
        raise RefusedError(f"fieldRef: {path!r} is not supported")
    return known[path]


def _resource(
    pod: Pod, container: Container, selector: ResourceFieldSelector, allocatable: Callable[[str], int]
) -> str:
    """Rounded up to whole divisors, as the downward API does."""
    named = [c for c in pod.all_containers if c.name == (selector.container_name or container.name)]
    side, _, resource = selector.resource.partition(".")
    if not named or side not in ("limits", "requests"):
        raise RefusedError(f"resourceFieldRef: no {selector.resource!r} of container {selector.container_name!r}")
    resources = named[0].resources
    quantity = (resources.effective_limits if side == "limits" else resources.effective_requests).get(resource)
    try:
        divisor = quantities.nanos(selector.divisor) or _NANOS
        unset = allocatable(resource) if side == "limits" else 0
        value = unset if quantity is None else quantities.nanos(quantity)
    except ValueError as error:
        raise RefusedError(f"resourceFieldRef: {selector.resource}: {error}") from error
    return str(-(-value // divisor))
