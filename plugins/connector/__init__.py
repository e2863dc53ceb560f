"""Tasks that connectors run: services which speak ``flyteidl2.connector``, or flytekit's older ``flyteidl`` agents.

``config`` is the section ``plugins.connector-service``. ``directory`` knows which connector runs which task
type, and asks them from time to time. ``channels`` calls them, ``wire`` builds and reads messages, and
``verdicts`` says what a connector's word means for a task. ``plugin`` puts it all behind the contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from propfan.pluginmachinery.registry import SetupContext, WebPluginEntry

if TYPE_CHECKING:
    from propfan.plugins.connector.plugin import ConnectorPlugin

__all__ = ["entry"]


def _load(setup: SetupContext) -> ConnectorPlugin:
    from propfan.plugins.connector.plugin import ConnectorPlugin

    return ConnectorPlugin.from_setup(setup)


entry = WebPluginEntry(id="connector-service", load=_load)
"""Runs the task types that connectors offer; those are learnt while the engine runs."""
