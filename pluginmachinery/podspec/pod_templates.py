"""Merging pods with pod templates.

A template's container named ``default`` is the ground of every container of the pod, ``primary`` of the
primary one, and one of the same name of that one; ``default-init`` and ``primary-init`` likewise for init
containers. Containers of the template that have no counterpart in the pod are not used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Final

from propfan._speedups import apitypes
from propfan.pluginmachinery.config import ApiObject
from propfan.pluginmachinery.contexts import PodTemplateStore
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.pluginmachinery.podspec import schema

DEFAULT: Final = "default"
PRIMARY: Final = "primary"
DEFAULT_INIT: Final = "default-init"
PRIMARY_INIT: Final = "primary-init"

_KEPT_TEMPLATES: Final = 256


class PodTemplates:
    """The cluster's pod templates in written form, each decoded once."""

    def __init__(self, store: PodTemplateStore) -> None:
        self._store = store
        self._decoded: OrderedDict[int, tuple[Mapping[str, Any], ApiObject]] = OrderedDict()

    def find(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The stored object, which is the same one until it changes."""
        return self._store.get(namespace, name)

    def written(self, stored: Mapping[str, Any]) -> ApiObject:
        """The object that `find` gave, in written form.

        Raises:
            BadTaskSpecificationError: it is no pod template.
        """
        known = self._decoded.get(id(stored))
        if known is not None and known[0] is stored:
            return known[1]
        try:
            template = apitypes.decode(stored, schema.POD_TEMPLATE)
        except apitypes.MismatchError as mismatch:
            name = (stored.get("metadata") or {}).get("name", "")
            raise BadTaskSpecificationError(f"PodTemplate '{name}': {mismatch}") from None
        self._decoded[id(stored)] = (stored, template)
        if len(self._decoded) > _KEPT_TEMPLATES:
            self._decoded.popitem(last=False)
        return template


def merge(template: ApiObject, spec: dict[str, Any], primary: str) -> dict[str, Any]:
    """The pod spec with a pod template below it; the spec wins.

    Args:
        template: A PodTemplate in written form.
        primary: Name of the primary container.
    """
    base = template["template"]["spec"]
    merged = apitypes.overlay(base, spec, schema.POD_SPEC)
    merged["containers"] = _containers(base.get("containers"), spec.get("containers"), DEFAULT, PRIMARY, primary)
    init = _containers(base.get("initContainers"), spec.get("initContainers"), DEFAULT_INIT, PRIMARY_INIT, "")
    if init:
        merged["initContainers"] = init
    else:
        merged.pop("initContainers", None)
    return merged


def _containers(
    templates: Sequence[ApiObject] | None,
    own: Sequence[ApiObject] | None,
    default: str,
    primary: str,
    primary_name: str,
) -> list[ApiObject]:
    templates = templates or ()
    ground: ApiObject | None = None
    primary_ground: ApiObject | None = None
    for template in templates:
        if template["name"] == default:
            ground = template
        elif template["name"] == primary:
            primary_ground = template
    merged = []
    for container in own or ():
        name = container["name"]
        layers = [] if ground is None else [ground]
        if primary_ground is not None and name == primary_name:
            layers.append(primary_ground)
        layers += [t for t in templates if t["name"] == name not in (default, primary)]
        merged.append(_overlay_all(layers, container))
    return merged


def _overlay_all(layers: Sequence[ApiObject], container: ApiObject) -> ApiObject:
    if not layers:
        return container
    merged: ApiObject = reduce(_overlay_container, (*layers, container))
    return {**merged, "name": container["name"]}


def _overlay_container(base: ApiObject, over: ApiObject) -> ApiObject:
    return apitypes.overlay(base, over, schema.CONTAINER)


def merge_overlay_pod_spec(base: ApiObject | None, custom: ApiObject | None) -> dict[str, Any]:
    """``custom`` laid over ``base``; only containers of the base survive, changed by those of their name.

    Raises:
        ValueError: one of them is ``None``.
    """
    if base is None or custom is None:
        raise ValueError("neither the basePodSpec or the customPodSpec can be nil")
    merged = apitypes.overlay(base, custom, schema.POD_SPEC)
    for field in ("containers", "initContainers"):
        containers = []
        for container in base.get(field) or ():
            layers = [over for over in custom.get(field) or () if over["name"] == container["name"]]
            containers.append(reduce(_overlay_container, layers, container))
        if containers or field == "containers":
            merged[field] = containers
        else:
            merged.pop(field, None)
    return merged
