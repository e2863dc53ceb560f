"""Reads the engine's configuration from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from propfan.engine.config import EngineConfig
from propfan.engine.documents import read_documents
from propfan.pluginmachinery.config import K8sConfig, decode_config
from propfan.pluginmachinery.errors import ConfigError, DecodeError
from propfan.pluginmachinery.loglinks import LogsConfig


def load(path: Path | None, overrides: Mapping[str, Any]) -> EngineConfig:
    """The configuration in ``path`` (the defaults without one) with ``overrides`` laid over it.

    Args:
        overrides: Keys as in the file; ``None`` overrides nothing, a mapping only its own keys.

    Raises:
        ConfigError: the file can not be read, or has unknown keys or values of a wrong type; all are named.
    """
    values = merged(path, overrides)
    config = decode_config(EngineConfig, values, "")
    config.capacity.in_nanos(Path("/"))
    decode_config(K8sConfig, config.plugins.get("k8s"), "plugins.k8s")
    decode_config(LogsConfig, config.plugins.get("logs"), "plugins.logs")
    return config


def merged(path: Path | None, overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings as they are written, before they are checked; arguments and errors of the file as of ``load``."""
    values = dict(read_mapping(path)) if path is not None else {}
    for key, value in overrides.items():
        below = values.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            values[key] = {**below, **value}
        elif value is not None:
            values[key] = value
    return values


def read_mapping(path: Path) -> Mapping[str, Any]:
    """The settings in a YAML or JSON file; none when it says nothing.

    Raises:
        ConfigError: it can not be read, or is no single mapping.
    """
    try:
        content = path.read_bytes()
        documents = read_documents(str(path), content) if _says_something(content) else ()
    except OSError as error:
        raise ConfigError(str(path), f"can not be read: {error.strerror or error}") from error
    except DecodeError as error:
        raise ConfigError(str(path), error.problem) from error
    if not documents:
        return {}
    if len(documents) > 1:
        raise ConfigError(str(path), f"has {len(documents)} documents: settings are a single one")
    values = documents[0].value
    if not isinstance(values, dict):
        raise ConfigError(str(path), f"must be a mapping of settings, is {type(values).__name__}")
    return values


def _says_something(content: bytes) -> bool:
    """Whether there is more than comments and a document's mark."""
    lines = (line.strip() for line in content.splitlines())
    return any(line and not line.startswith(b"#") and line != b"---" for line in lines)
