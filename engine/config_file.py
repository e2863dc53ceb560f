"""Reads the engine's configuration from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from propfan.engine.config import EngineConfig
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import ConfigError
from propfan.pluginmachinery.loglinks import LogsConfig


def load(path: Path | None, overrides: Mapping[str, Any]) -> EngineConfig:
    """The configuration in ``path`` (the defaults without one) with ``overrides`` laid over it.

    Args:
        overrides: Keys as in the file; ``None`` overrides nothing.

    Raises:
        ConfigError: the file can not be read, or has unknown keys or values of a wrong type; all are named.
    """
    values = {**(_read(path) if path is not None else {}), **{k: v for k, v in overrides.items() if v is not None}}
    config = decode_config(EngineConfig, values, "")
    decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s")
    decode_config(LogsConfig, config.plugins.get("logs"), "plugins.logs")
    return config


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is no YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(str(path), f"must be a mapping of settings, is {type(values).__name__}")
    return values
