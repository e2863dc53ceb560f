"""Runs ``clustered-task`` tasks: one program on several nodes, started by ``torchrun``, as a JobSet each."""

from __future__ import annotations

from propfan.plugins.clustered.plugin import ClusteredConfig, ClusteredPlugin, entry

__all__ = ["ClusteredConfig", "ClusteredPlugin", "entry"]
