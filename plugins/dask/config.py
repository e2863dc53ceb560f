"""Section ``plugins.dask``."""

from __future__ import annotations

import msgspec

from propfan.pluginmachinery.loglinks import LogsConfig


class DaskConfig(msgspec.Struct, frozen=True):
    """Section ``plugins.dask``.

    Attributes:
        logs: Links to the logs of the job runner; they know ``{{ .daskSchedulerName }}`` too. The path of the
            first link of type ``dashboard`` is what the scheduler serves its dashboard under.
    """

    logs: LogsConfig = LogsConfig()
