"""Settings of sensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from propfan.plugins.connectors.hosts import HostConfig

SECTION: Final = "sensor"


class SensorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``connectors.sensor``.

    Attributes:
        modules: Dotted names of modules whose sensors tasks may have run, beside those that are installed;
            imported when the service starts. Classes of flytekit's ``BaseSensor`` serve as well.
        names: What a task calls a sensor, to the one that stands in for it, both as ``module:name``.
        paths: Only files and objects below these paths and URIs may be looked for; any when empty.
        hosts: Which hosts may be asked.
        secrets: Secrets of the service that tasks may name, and the hosts that each may be sent to.
        poke_timeout_s: Of one look, seconds; below ``timeouts.get-s`` of the service.
    """

    modules: Sequence[str] = ()
    names: Mapping[str, str] = {}
    paths: Sequence[str] = ()
    hosts: HostConfig = HostConfig()
    secrets: Mapping[str, Sequence[str]] = {}
    poke_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 20.0
