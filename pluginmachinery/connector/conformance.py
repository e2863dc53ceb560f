"""Whether an object is what a connector must be, told before the first task needs it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector.categories import MAX_VERSION, TaskCategory
from propfan.pluginmachinery.connector.contract import AsyncConnector, Connector, SyncConnector
from propfan.pluginmachinery.connector.resources import is_meta_type
from propfan.pluginmachinery.errors import ConnectorError

_METHODS: Final[dict[type[Connector], dict[str, tuple[str, ...]]]] = {
    AsyncConnector: {
        "create": ("task",),
        "get": ("meta", "job"),
        "delete": ("meta", "job"),
        "get_metrics": ("meta", "query"),
        "get_logs": ("meta", "query"),
    },
    SyncConnector: {"do": ("task",)},
}


def check_connector(connector: object) -> None:
    """Raises ``ConnectorError`` when an attribute or a method is not what it must be; names the first."""
    name = _name_of(connector)
    if isinstance(connector, type):
        raise ConnectorError(name, "connector", "must be an instance: a class is made one with a ConnectorSetup")
    kind = next((base for base in _METHODS if isinstance(connector, base)), None)
    if kind is None or not isinstance(connector, Connector):
        problem = f"must be an AsyncConnector or a SyncConnector, is {type(connector).__name__}"
        raise ConnectorError(name, "connector", problem)
    if isinstance(connector, AsyncConnector) and isinstance(connector, SyncConnector):
        raise ConnectorError(name, "connector", "is either an AsyncConnector or a SyncConnector, not both")
    _check_attributes(name, connector)
    for method, parameters in _METHODS[kind].items():
        _check_method(name, connector, method, parameters)
    if not inspect.iscoroutinefunction(connector.close):
        raise ConnectorError(name, "close", "must be async: 'async def close(self)'")


def _name_of(connector: object) -> str:
    name = getattr(connector, "name", None)
    if isinstance(name, str) and name.strip():
        return name
    return connector.__name__ if isinstance(connector, type) else type(connector).__name__


def _check_attributes(name: str, connector: Connector) -> None:
    own_name: object = getattr(connector, "name", None)
    if not isinstance(own_name, str) or not own_name.strip() or not own_name.isprintable():
        raise ConnectorError(name, "name", f"is required: a text for people, is {own_name!r}")
    _check_categories(name, getattr(connector, "categories", None))
    limit: object = connector.max_concurrent_calls
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise ConnectorError(name, "max_concurrent_calls", f"must be an integer of at least 1, is {limit!r}")
    if isinstance(connector, AsyncConnector):
        _check_meta_type(name, getattr(connector, "meta_type", None))


def _check_categories(name: str, categories: object) -> None:
    field = "categories"
    if isinstance(categories, str) or not isinstance(categories, Sequence) or not categories:
        raise ConnectorError(name, field, "is required: at least one TaskCategory(task type, version) in a tuple")
    for category in categories:
        if not isinstance(category, TaskCategory):
            raise ConnectorError(name, field, f"must be TaskCategory, one is {category!r}")
        task_type: object = category.name
        if not isinstance(task_type, str) or not task_type or task_type != task_type.strip():
            raise ConnectorError(name, field, f"a task type must be a name, one is {task_type!r}")
        version: object = category.version
        if not isinstance(version, int) or isinstance(version, bool) or not 0 <= version <= MAX_VERSION:
            raise ConnectorError(
                name, field, f"the version of '{task_type}' must be 0 to {MAX_VERSION}, is {version!r}"
            )
    if len(set(categories)) != len(categories):
        raise ConnectorError(name, field, "names a task type with the same version twice")


def _check_meta_type(name: str, kind: object) -> None:
    if not is_meta_type(kind):
        raise ConnectorError(name, "meta_type", f"is required: a subclass of ResourceMeta or a dataclass, is {kind!r}")
    try:
        msgspec.json.Decoder(kind)
    except (TypeError, NameError) as error:
        raise ConnectorError(name, "meta_type", f"can not be decoded from JSON: {error}") from error


def _check_method(name: str, connector: Connector, method: str, parameters: tuple[str, ...]) -> None:
    shape = f"def {method}({', '.join(('self', *parameters))})"
    found: Any = getattr(connector, method)
    if not callable(found):
        raise ConnectorError(name, method, f"must be a method '{shape}', is {type(found).__name__}")
    try:
        signature = inspect.signature(found)
    except ValueError:  # compiled without a signature: the first call will tell
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise ConnectorError(name, method, f"must be callable as '{shape}': {error}") from None
    if method == "get_logs" and has_logs(connector) and not inspect.isasyncgenfunction(found):
        raise ConnectorError(name, method, f"must be an async generator: 'async {shape}' with a yield")


def has_logs(connector: Connector) -> bool:
    return isinstance(connector, AsyncConnector) and type(connector).get_logs is not AsyncConnector.get_logs


def has_metrics(connector: Connector) -> bool:
    return isinstance(connector, AsyncConnector) and type(connector).get_metrics is not AsyncConnector.get_metrics
