"""Secrets for containers that run as processes: what Flyte's webhook does to pods of a cluster.

Values exist in the environment of the process, or in files that only its user may read; nothing of
them is in the pod.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import anyio
from flyteidl2.core.security_pb2 import Secret

from propfan.engine.processes.pods import Pod
from propfan.engine.processes.refusals import RefusedError
from propfan.pluginmachinery import secrets
from propfan.pluginmachinery.errors import DecodeError, PropfanError

ENV_PREFIX: Final = "_UNION_"
"""Of variables that a secret names no other for; the webhook's default ``secretEnvVarPrefix``."""


class TaskSecrets(Protocol):
    """Where the secrets of tasks come from."""

    async def value(self, secret: Secret, labels: Mapping[str, str]) -> str | bytes | None:
        """The value that a pod with these labels may have; ``None`` when there is none by that name.

        Raises:
            PropfanError: it can not be read now.
        """
        ...


async def inject(source: TaskSecrets, pod: Pod, folder: Path) -> Mapping[str, str]:
    """The variables by which a container finds the secrets that its pod asks for.

    Args:
        folder: Where secrets that shall be files are written.

    Raises:
        RefusedError: there is no such secret (worth another try: it may be made), or it can not be a variable.
    """
    labels, annotations = pod.metadata.labels, pod.metadata.annotations
    if labels.get(secrets.INJECT_LABEL) != "true":
        return {}
    try:
        wanted = secrets.from_annotations(annotations)
    except DecodeError as error:
        raise RefusedError(str(error)) from error
    variables = {"FLYTE_SECRETS_ENV_PREFIX": ENV_PREFIX}
    for secret in wanted:
        try:
            value = await source.value(secret, labels)
        except PropfanError as error:
            raise RefusedError(f"secret {secret.key!r}: {error}", is_final=False) from error
        if value is None:
            problem = f"secret {secret.key!r} is not there: create it, 'flyte create secret {secret.key}'"
            raise RefusedError(problem, is_final=False)
        if secret.mount_requirement == Secret.FILE:
            variables.update(await _as_file(secret, value, folder))
        else:
            variables[secret.env_var or f"{ENV_PREFIX}{secret.key.upper()}"] = _text(secret, value)
    return variables


async def _as_file(secret: Secret, value: str | bytes, folder: Path) -> Mapping[str, str]:
    name = secret.key.lower()
    if "/" in name or name in ("", ".", ".."):
        raise RefusedError(f"secret {secret.key!r} can not be the name of a file")
    path = folder / name
    await anyio.to_thread.run_sync(_write, path, value.encode() if isinstance(value, str) else value)
    variables = {"FLYTE_SECRETS_DEFAULT_DIR": str(folder), "FLYTE_SECRETS_FILE_PREFIX": ""}
    if secret.env_var:
        variables[secret.env_var] = str(path)
    return variables


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _text(secret: Secret, value: str | bytes) -> str:
    try:
        return value if isinstance(value, str) else value.decode()
    except UnicodeDecodeError:
        raise RefusedError(
            f"secret {secret.key!r} is no UTF-8 text, so it can not be a variable: mount it as a file"
        ) from None
