"""Who finds the secrets of pods: Flyte's managers, that give references in the place of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import msgspec
from flyteidl2.core.security_pb2 import Secret

from propfan.engine.secret_managers.kubernetes import KubernetesSecrets
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.secrets import FileEnvSecrets
from propfan.engine.webhook import injection, mirrors
from propfan.engine.webhook.config import SecretManagerType
from propfan.engine.webhook.injection import Injection, SecretKey
from propfan.engine.webhook.mirrors import Task
from propfan.pluginmachinery.errors import PermanentError


class Asker(msgspec.Struct, frozen=True):
    """The pod that asks. ``task`` is ``None`` when it belongs to no TaskAction."""

    namespace: str
    labels: Mapping[str, str]
    task: Task | None


class Found(msgspec.Struct, frozen=True):
    """What a manager gives. ``mirrored`` are values, by key, that the task's own Secret must have for it."""

    injection: Injection
    mirrored: Mapping[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Found(injection={self.injection!r}, mirrored={sorted(self.mirrored)})"


class SecretSource(Protocol):
    """One manager."""

    @property
    def kind(self) -> SecretManagerType: ...

    async def find(self, secret: Secret, asker: Asker) -> Found | str:
        """What to inject, or why not: where the secret was looked for, or what it must have.

        Raises:
            ApiError: the cluster does not say.
        """
        ...


class GlobalSource:
    """Environment and files of the engine, for all projects."""

    kind: Final = SecretManagerType.GLOBAL

    def __init__(self, secrets: FileEnvSecrets, prefix: str) -> None:
        self._secrets: Final = secrets
        self._prefix: Final = prefix

    async def find(self, secret: Secret, asker: Asker) -> Found | str:
        if not secret.key or not secret.group:
            return "both key and group are required parameters"
        try:
            value = await self._secrets.get(secret.key, secret.group, secret.group_version)
        except PermanentError as error:
            return error.message
        if secret.mount_requirement == Secret.FILE:
            return "global secrets can only be injected as environment variables"
        if asker.task is None:
            return _NO_TASK
        key = mirrors.key_of(f"global/{secret.group}/{secret.key}")
        names = [f"{self._prefix}{secret.group}_{secret.key}".upper(), secret.env_var]
        source = SecretKey(mirrors.name_of(asker.task), key)
        return Found(injection.of_variable(self._prefix, names, source), {key: value.encode()})


class KubernetesSource:
    """Secrets of the pod's own namespace: the group is the Secret's name."""

    kind: Final = SecretManagerType.K8S

    def __init__(self, secrets: KubernetesSecrets, prefix: str) -> None:
        self._secrets: Final = secrets
        self._prefix: Final = prefix

    async def find(self, secret: Secret, asker: Asker) -> Found | str:
        if not secret.key:
            return "a key is required"
        group = secret.group or object_name(secret.key)
        value = await self._secrets.value(asker.namespace, group, secret.key)
        if value is None:
            return f"Secret {asker.namespace}/{group} with key {secret.key}"
        source = SecretKey(group, secret.key)
        if secret.mount_requirement == Secret.ENV_VAR:
            if not _is_text(value):
                return _binary(secret)
            names = [f"{self._prefix}{group}_{secret.key}".upper(), secret.env_var]
            return Found(injection.of_variable(self._prefix, names, source))
        return Found(injection.of_file(f"{group.lower()}/{secret.key.lower()}", secret.env_var, source))


class EmbeddedSource:
    """Values by scope, in Secrets of one namespace for all, as ``flyte create secret`` leaves them."""

    kind: Final = SecretManagerType.EMBEDDED

    def __init__(self, secrets: KubernetesSecrets, namespace: str, prefix: str) -> None:
        self._secrets: Final = secrets
        self._namespace: Final = namespace
        self._prefix: Final = prefix

    async def find(self, secret: Secret, asker: Asker) -> Found | str:
        if not secret.key:
            return "a key is required"
        scope = asker.task.scope if asker.task is not None else _scope_of(asker.labels)
        if isinstance(scope, str):
            return scope
        for each in scope.cascade():
            identifier = each.id_of(secret.key)
            value = await self._secrets.value(self._namespace, object_name(identifier), identifier)
            if value is not None:
                return self._found(secret, asker, identifier, value)
        places = ", ".join(f"{object_name(each.id_of(secret.key))} ({each})" for each in scope.cascade())
        return f"secret not found across all scopes: Secrets {places} in namespace {self._namespace}"

    def _found(self, secret: Secret, asker: Asker, identifier: str, value: bytes) -> Found | str:
        is_file = secret.mount_requirement == Secret.FILE
        if not is_file and not _is_text(value):
            return _binary(secret)
        path = secret.key.lower()
        if is_file and ("/" in path or path in (".", "..")):
            return f"the key {secret.key!r} can not be the name of a file"
        mirrored: Mapping[str, bytes] = {}
        if self._namespace == asker.namespace:
            source = SecretKey(object_name(identifier), identifier)
        elif asker.task is not None:
            source = SecretKey(mirrors.name_of(asker.task), mirrors.key_of(identifier))
            mirrored = {source.key: value}
        else:
            return _NO_TASK
        if is_file:
            return Found(injection.of_file(path, secret.env_var, source), mirrored)
        name = secret.env_var or f"{self._prefix}{secret.key.upper()}"
        return Found(injection.of_variable(self._prefix, [name], source), mirrored)


_NO_TASK: Final = "the pod belongs to no TaskAction, which would have to own a copy of it"


def _scope_of(labels: Mapping[str, str]) -> SecretScope | str:
    """By the pod's labels, or what is missing."""
    for name in ("organization", "project", "domain"):
        if not labels.get(name):
            return f"secret read requirements not met due to empty {name} field in the pod labels"
    return SecretScope(labels["organization"], labels["project"], labels["domain"])


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _binary(secret: Secret) -> str:
    return f'secret "{secret.key}" has a binary value that is not a valid UTF-8 string: mount it as a file'


async def first_found(sources: Sequence[SecretSource], secret: Secret, asker: Asker) -> Found:
    """Raises ``PermanentError`` with code ``SecretNotFound`` when none of them has it; it names all places."""
    reasons = []
    for source in sources:
        found = await source.find(secret, asker)
        if isinstance(found, Found):
            return found
        reasons.append(f"{source.kind.value}: {found}")
    told = f"{secret.group}/{secret.key}" if secret.group else secret.key
    raise PermanentError(
        "SecretNotFound", f"none of the secret managers injected secret [{told}]: {'; '.join(reasons)}"
    )
