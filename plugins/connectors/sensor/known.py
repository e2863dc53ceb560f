"""Which sensors tasks may have run: a task names a module and a class, and neither is imported because it does."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from types import ModuleType
from typing import Any, Final

import anyio.to_thread
import structlog

from propfan.pluginmachinery.connector import Blob, Connection, ConnectorSetup, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError
from propfan.plugins.connectors.sensor.config import SECTION, SensorConfig
from propfan.plugins.connectors.sensor.sensors import OWN, Look, Sensor

logger = structlog.get_logger(__name__)

ENTRY_POINT_GROUP: Final = "propfan.sensors"
"""Where a distribution offers its sensors: each entry point is a ``Sensor`` class."""


class KnownSensors:
    """Propfan's own, those of installed distributions, and those of the modules that the configuration names."""

    def __init__(self, config: SensorConfig) -> None:
        """Imports the modules. Raises ``ConfigError`` when one can not be, or offers what is no sensor."""
        self._modules: Final[dict[str, ModuleType]] = {name: _imported(name) for name in config.modules}
        self._by_name: Final[dict[tuple[str, str], type]] = {}
        offered: list[type[Sensor]] = [*_installed(), *OWN]
        for sensor in offered:
            for name in ((sensor.__module__, sensor.__qualname__), *sensor.names):
                self._by_name[name] = sensor
        for called, meant in config.names.items():
            field = f"connectors.{SECTION}.names"
            kind = self._find(*_pair(meant, field))
            if kind is None:
                raise ConfigError(f"{field}.{called}", f"there is no sensor '{meant}'; there are: {self._told()}")
            self._by_name[_pair(called, field)] = kind

    def named(self, module: str, name: str) -> type:
        """A class with ``poke``: a ``Sensor``, or one that is made as flytekit's are.

        Raises:
            BadTaskSpecificationError: there is none; the message says how it may come to be.
        """
        kind = self._find(module, name)
        if kind is not None:
            return kind
        if module in self._modules:
            raise BadTaskSpecificationError(f"sensor '{module}:{name}': the module has no class '{name}' with poke()")
        way_out = f"name the module in connectors.{SECTION}.modules, or a sensor for it in connectors.{SECTION}.names"
        problem = f"sensor '{module}:{name}' is not one that this service runs: {way_out}; there are: {self._told()}"
        raise BadTaskSpecificationError(problem)

    def _find(self, module: str, name: str) -> type | None:
        known = self._by_name.get((module, name))
        if known is not None or module not in self._modules:
            return known
        found = vars(self._modules[module]).get(name)
        return found if isinstance(found, type) and callable(getattr(found, "poke", None)) else None

    def _told(self) -> str:
        return ", ".join(sorted(f"{module}:{name}" for module, name in self._by_name))


class Poking:
    """One sensor of a task: made, its inputs bound."""

    def __init__(
        self, kind: Any, setup: ConnectorSetup, config: Any, inputs: Mapping[str, Any], connection: Connection
    ) -> None:
        """Raises ``BadTaskSpecificationError`` when ``poke`` does not take these inputs."""
        is_ours = issubclass(kind, Sensor)
        self._sensor: Final[Any] = kind(setup, config, connection) if is_ours else kind("sensor", config=config)
        self._inputs: Final = inputs if is_ours else {name: _as_uri(value) for name, value in inputs.items()}
        try:
            inspect.signature(self._sensor.poke).bind(**self._inputs)
        except TypeError as error:
            raise BadTaskSpecificationError(f"the inputs are not those of {kind.__name__}.poke: {error}") from None

    def check(self) -> None:
        """Raises ``BadTaskSpecificationError`` when it can never see anything."""
        if isinstance(self._sensor, Sensor):
            self._sensor.check(**self._inputs)

    async def poke(self) -> Look:
        function: Callable[..., Any] = self._sensor.poke
        if inspect.iscoroutinefunction(function):
            seen = await function(**self._inputs)
        else:
            seen = await anyio.to_thread.run_sync(lambda: function(**self._inputs))
            if isinstance(seen, Awaitable):
                seen = await seen
        return seen if isinstance(seen, Look) else Look(is_over=bool(seen))


def _installed() -> list[type[Sensor]]:
    """Those of entry points; what is wrong with one is told and costs that one only."""
    found = []
    for point in metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            kind = point.load()
        except Exception as error:  # noqa: BLE001 - importing others' code may raise anything
            logger.warning("sensor can not be loaded", sensor=point.value, error=f"{type(error).__name__}: {error}")
            continue
        if isinstance(kind, type) and issubclass(kind, Sensor):
            found.append(kind)
        else:
            rule = f"must be a class of {Sensor.__module__}.{Sensor.__qualname__}"
            logger.warning("sensor can not be loaded", sensor=point.value, error=rule)
    return found


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        problem = f"{name} can not be imported: {type(error).__name__}: {error}"
        raise ConfigError(f"connectors.{SECTION}.modules", problem) from error


def _pair(text: str, field: str) -> tuple[str, str]:
    module, separator, name = text.partition(":")
    if not module or not separator or not name:
        raise ConfigError(field, f"'{text}' must be written as module:name")
    return module, name


def _as_uri(value: Any) -> Any:
    return value.uri if isinstance(value, Blob | Dataset) else value
