"""Runs tasks as jobs of Slurm clusters, by the programs of a login node, over SSH."""

from __future__ import annotations

from propfan.plugins.connectors.extras import offered
from propfan.plugins.connectors.slurm.connector import SlurmConnector

connectors = offered("slurm", "asyncssh", SlurmConnector)
