"""Secrets of the connector service itself, named as Flyte names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from propfan.engine.connector_service.config import SecretConfig
from propfan.engine.secrets import SECRET_NOT_FOUND, FileEnvSecrets
from propfan.pluginmachinery.errors import PermanentError

_DEFAULTS: Final = SecretConfig()


class ServiceSecrets:
    """Looks in the environment first, then in a folder. Names of variables are upper case, of files lower case.

    White space around a value is no part of it.
    """

    def __init__(self, config: SecretConfig, environ: Mapping[str, str]) -> None:
        def setting(value: str, default: str, variable: str) -> str:
            return environ.get(variable, value) if value == default else value

        self._environ: Final = environ
        self._env_prefix: Final = setting(config.env_prefix, _DEFAULTS.env_prefix, "FLYTE_SECRETS_ENV_PREFIX")
        self._folder: Final = Path(setting(config.folder, _DEFAULTS.folder, "FLYTE_SECRETS_DEFAULT_DIR"))
        self._file_prefix: Final = setting(config.file_prefix, _DEFAULTS.file_prefix, "FLYTE_SECRETS_FILE_PREFIX")
        self._files: Final = FileEnvSecrets({}, self._folder)

    async def get(self, key: str, group: str = "", group_version: str = "") -> str:
        parts = [part for part in (group, group_version, key) if part]
        variable = self._env_prefix + "_".join(parts).upper()
        if variable in self._environ:
            return self._environ[variable].strip()
        *folders, name = [part.lower() for part in parts] or [""]
        folder, file = "/".join(folders), f"{self._file_prefix}{name}"
        try:
            return (await self._files.get(file, folder)).strip()
        except PermanentError as error:
            path = self._folder / folder / file
            way_out = f"set the variable {variable} or the file {path} where the connector service runs"
            problem = f"secret '{key}' is not there: {way_out}, or let the task bring it in custom.secrets"
            raise PermanentError(SECRET_NOT_FOUND, problem) from error
