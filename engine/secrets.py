"""Secrets from the environment and from files, for plugins that call other services."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio.to_thread

from propfan.pluginmachinery.errors import PermanentError

SECRET_NOT_FOUND: Final = "SecretNotFound"  # noqa: S105 - an error code


class FileEnvSecrets:
    """Looks in the environment first, then in a folder; neither values nor their length are ever logged.

    Without a group: variable ``<env_prefix><key>``, file ``<folder>/<key>``. With one:
    ``<env_prefix><GROUP>_<KEY>`` and ``<folder>/<group>/<key>``. Line ends at the end of a file are no
    part of the value. A version of a group is not looked at: there is one of each.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        folder: Path = Path("/etc/secrets"),
        env_prefix: str = "FLYTE_SECRET_",
    ) -> None:
        self._environ: Final = environ
        self._folder: Final = folder
        self._env_prefix: Final = env_prefix

    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        if group:
            variable = f"{self._env_prefix}{group.upper()}_{key.upper()}"
            file = self._folder / group / key
            places = f"Env [{variable}], file [{file}]"
        else:
            variable = f"{self._env_prefix}{key}"
            file = self._folder / key
            places = f"file [{file}], Env [{variable}]"
        if variable in self._environ:
            return self._environ[variable]
        content = await anyio.to_thread.run_sync(self._read, file) if key else None
        if content is None:
            raise PermanentError(SECRET_NOT_FOUND, f"secrets not found - {places}")
        value = _text(content)
        if value is None:
            problem = f'secret "{key}" has a binary value that is not a valid UTF-8 string: {places}'
            raise PermanentError(SECRET_NOT_FOUND, problem)
        return value

    def _read(self, file: Path) -> bytes | None:
        """The content; ``None`` when it is not there or not below the folder."""
        try:
            if not file.resolve().is_relative_to(self._folder.resolve()):
                return None
            return file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except (OSError, ValueError, RuntimeError) as error:  # no rights, a loop of links, a name that can not be
            problem = getattr(error, "strerror", None) or str(error)
            raise PermanentError(SECRET_NOT_FOUND, f"secret file {str(file)!r} can not be read: {problem}") from error


def _text(content: bytes) -> str | None:
    """``None`` when it is none; the decoder's own error would carry the secret along."""
    try:
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        return None
