"""Secrets from the environment and from files, for plugins that call other services."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import anyio

from propfan.pluginmachinery.errors import PermanentError

SECRET_NOT_FOUND: Final = "SecretNotFound"


class FileEnvSecrets:
    """Looks in the environment first, then in a folder; neither values nor their length are ever logged.

    Without a group: variable ``<env_prefix><key>``, file ``<folder>/<key>``. With one:
    ``<env_prefix><GROUP>_<KEY>`` and ``<folder>/<group>/<key>``.
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
        else:
            variable = f"{self._env_prefix}{key}"
            file = self._folder / key
        if variable in self._environ:
            return self._environ[variable]
        folder = self._folder.resolve()
        if key and file.resolve().is_relative_to(folder):
            try:
                return (await anyio.Path(file).read_text()).rstrip("\n")
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                pass
        raise PermanentError(SECRET_NOT_FOUND, f"secrets not found - file [{file}], Env [{variable}]")
