"""What a pod gets for its secrets: variables and one volume that refer to Kubernetes Secrets; never a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

VOLUME: Final = "flyte-secrets"
FOLDER: Final = "/etc/flyte/secrets"
PREFIX_VARIABLE: Final = "FLYTE_SECRETS_ENV_PREFIX"
FOLDER_VARIABLE: Final = "FLYTE_SECRETS_DEFAULT_DIR"
FILE_PREFIX_VARIABLE: Final = "FLYTE_SECRETS_FILE_PREFIX"

_CONTAINERS: Final = ("initContainers", "containers")


class SecretKey(msgspec.Struct, frozen=True):
    """A key of a Secret in the pod's namespace."""

    name: str
    key: str


class Variable(msgspec.Struct, frozen=True):
    """With a plain value, or that of a Secret."""

    name: str
    value: str = ""
    source: SecretKey | None = None

    def as_json(self) -> Mapping[str, Any]:
        if self.source is None:
            return {"name": self.name, "value": self.value}
        return {
            "name": self.name,
            "valueFrom": {"secretKeyRef": {"name": self.source.name, "key": self.source.key}},
        }


class File(msgspec.Struct, frozen=True):
    """``path`` is below ``FOLDER``."""

    path: str
    source: SecretKey


class Injection(msgspec.Struct, frozen=True):
    """Of one secret."""

    variables: Sequence[Variable] = ()
    file: File | None = None


def of_variable(prefix: str, names: Sequence[str], source: SecretKey) -> Injection:
    """The value in variables of these names."""
    named = [Variable(name, source=source) for name in dict.fromkeys(filter(None, names))]
    return Injection([*named, Variable(PREFIX_VARIABLE, prefix)])


def of_file(path: str, env_var: str, source: SecretKey) -> Injection:
    """The value in a file below ``FOLDER``; ``env_var``, if given, says where."""
    places = [Variable(FOLDER_VARIABLE, FOLDER), Variable(FILE_PREFIX_VARIABLE)]
    if env_var:
        places.append(Variable(env_var, f"{FOLDER}/{path}"))
    return Injection(places, File(path, source))


def json_patch(pod: Mapping[str, Any], injections: Sequence[Injection]) -> Sequence[Mapping[str, Any]]:
    """RFC 6902 operations; the same again for a pod that has them already changes nothing.

    Variables come first in each container, in place of others of their names. A volume that the pod has by the name
    is added to; a container that mounts it, or has something in its place, keeps that.
    """
    spec: Mapping[str, Any] = pod.get("spec") or {}
    variables: dict[str, Mapping[str, Any]] = {}
    for injection in injections:
        variables.update((variable.name, variable.as_json()) for variable in injection.variables)
    files = {injection.file.path: injection.file for injection in injections if injection.file is not None}
    changed: dict[str, Any] = {}
    for field in _CONTAINERS:
        containers = spec.get(field) or []
        if containers:
            changed[field] = [_container(found, variables, is_mounted=bool(files)) for found in containers]
    if files:
        changed["volumes"] = _volumes(spec.get("volumes") or [], list(files.values()))
    return [
        {"op": "add", "path": f"/spec/{field}", "value": value}
        for field, value in changed.items()
        if value != spec.get(field)
    ]


def _container(
    container: Mapping[str, Any], variables: Mapping[str, Mapping[str, Any]], *, is_mounted: bool
) -> Mapping[str, Any]:
    others = [found for found in container.get("env") or [] if found.get("name") not in variables]
    changed = {**container, "env": [*variables.values(), *others]}
    mounts = container.get("volumeMounts") or []
    is_taken = any(found.get("name") == VOLUME or found.get("mountPath") == FOLDER for found in mounts)
    if is_mounted and not is_taken:
        changed["volumeMounts"] = [*mounts, {"name": VOLUME, "mountPath": FOLDER, "readOnly": True}]
    return changed


def _volumes(volumes: Sequence[Mapping[str, Any]], files: Sequence[File]) -> Sequence[Mapping[str, Any]]:
    known = next((found for found in volumes if found.get("name") == VOLUME), {})
    sources = list((known.get("projected") or {}).get("sources") or [])
    by_object: dict[str, list[Mapping[str, str]]] = {}
    for file in files:
        by_object.setdefault(file.source.name, []).append({"key": file.source.key, "path": file.path})
    for name, items in by_object.items():
        source = {"secret": {"name": name, "items": items}}
        if source not in sources:
            sources.append(source)
    others = [found for found in volumes if found.get("name") != VOLUME]
    return [*others, {"name": VOLUME, "projected": {"sources": sources}}]
