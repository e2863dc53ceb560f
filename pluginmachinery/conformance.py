"""Whether an object is what a plugin protocol asks for, told before the first task needs it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from propfan.pluginmachinery.core_plugin import CorePlugin, CoreProperties
from propfan.pluginmachinery.errors import PluginError
from propfan.pluginmachinery.kubernetes_plugin import AbortOverride, Properties
from propfan.pluginmachinery.web_plugin import (
    AsyncWebPlugin,
    Background,
    Discovering,
    Paced,
    SyncWebPlugin,
    WebPluginConfig,
)

MIN_GENERATED_NAME_LENGTH: Final = 8
"""Length of the shortest hashed name: ``f`` and seven base32 digits of a 32-bit hash."""


def check_methods(plugin: str, subject: object, protocol: type) -> None:
    """Compares every method of ``protocol`` with that of ``subject``: presence, parameters, async or not.

    Raises:
        PluginError: names the first method at fault, and how it must look.
    """
    for name, wanted in _methods(protocol):
        _check_method(plugin, subject, protocol, name, wanted)


def check_kubernetes_plugin(plugin: str, subject: Any, protocol: type) -> Properties:
    """A Kubernetes or cluster plugin, with ``on_abort`` if it has one.

    Raises:
        PluginError: a method or a property is not what it must be.
    """
    check_methods(plugin, subject, protocol)
    if hasattr(subject, "on_abort"):
        check_methods(plugin, subject, AbortOverride)
    properties = _answer(plugin, "get_properties", subject.get_properties, Properties)
    for field in ("disable_inject_owner_references", "disable_inject_finalizer", "disable_delete_resource_on_finalize"):
        check_flag(plugin, properties, field)
    _check_name_length(plugin, properties.generated_name_max_length)
    return properties


def check_core_plugin(plugin: str, subject: Any) -> CoreProperties:
    """Raises ``PluginError`` when a method or a property is not what it must be."""
    check_methods(plugin, subject, CorePlugin)
    properties = _answer(plugin, "get_properties", subject.get_properties, CoreProperties)
    check_flag(plugin, properties, "disable_node_level_caching")
    _check_name_length(plugin, properties.generated_name_max_length)
    return properties


def check_web_plugin(plugin: str, subject: Any) -> WebPluginConfig:
    """An asynchronous or a synchronous one.

    Raises:
        PluginError: a method is not what it must be, or values of its configuration are out of range; all are named.
    """
    if hasattr(subject, "do") and hasattr(subject, "create"):
        raise PluginError(plugin, "do", "a plugin is either synchronous (do) or asynchronous (create), not both")
    check_methods(plugin, subject, SyncWebPlugin if hasattr(subject, "do") else AsyncWebPlugin)
    for method, protocol in (("pace", Paced), ("discovered", Discovering), ("run", Background)):
        if hasattr(subject, method):
            check_methods(plugin, subject, protocol)
    config = _answer(plugin, "get_config", subject.get_config, WebPluginConfig)
    violations = config.violations()
    if violations:
        raise PluginError(plugin, "get_config", f"config validation failed. Error: {'; '.join(violations)}")
    return config


def check_flag(plugin: str, subject: object, field: str) -> None:
    """Raises ``PluginError`` when the attribute is no bool."""
    value = getattr(subject, field)
    if not isinstance(value, bool):
        raise PluginError(plugin, field, f"must be a bool, is {type(value).__name__}")


def method_names(protocol: type) -> tuple[str, ...]:
    """All that an implementation must have."""
    return tuple(name for name, _ in _methods(protocol))


def _methods(protocol: type) -> Iterator[tuple[str, Any]]:
    for name, member in vars(protocol).items():
        if not name.startswith("_") and inspect.isfunction(member):
            yield name, member


def _check_method(plugin: str, subject: object, protocol: type, name: str, wanted: Any) -> None:
    parameters = list(inspect.signature(wanted).parameters)[1:]
    is_async = inspect.iscoroutinefunction(wanted)
    shape = f"{'async ' if is_async else ''}def {name}({', '.join(['self', *parameters])})"
    method = getattr(subject, name, None)
    # A class that names the protocol as its base inherits the empty method of what it forgot.
    if method is None or getattr(method, "__func__", None) is wanted:
        raise PluginError(plugin, name, f"{type(subject).__name__} lacks the method '{shape}' of {protocol.__name__}")
    if not callable(method):
        raise PluginError(plugin, name, f"must be a method '{shape}', is {type(method).__name__}")
    if _is_async(method) != is_async:
        raise PluginError(plugin, name, f"must {'' if is_async else 'not '}be async: '{shape}'")
    try:
        signature = inspect.signature(method)
    except ValueError:  # compiled without a signature: the first call will tell
        return
    try:
        signature.bind(*parameters)
    except TypeError as error:
        raise PluginError(plugin, name, f"must be callable as '{shape}': {error}") from None


def _is_async(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(type(method).__call__)


P = TypeVar("P")


def _answer(plugin: str, name: str, method: Callable[[], object], wanted: type[P]) -> P:
    try:
        answer = method()
    except Exception as error:
        raise PluginError(plugin, name, f"raised {type(error).__name__}: {error}") from error
    if not isinstance(answer, wanted):
        raise PluginError(plugin, name, f"must return {wanted.__name__}, is {type(answer).__name__}")
    return answer


def _check_name_length(plugin: str, length: object) -> None:
    field = "generated_name_max_length"
    if length is None:
        return
    if not isinstance(length, int) or isinstance(length, bool):
        raise PluginError(plugin, field, f"must be an int or None, is {type(length).__name__}")
    if length < MIN_GENERATED_NAME_LENGTH:
        raise PluginError(plugin, field, f"must be at least {MIN_GENERATED_NAME_LENGTH}, is {length}")
