"""Waits for something: a task that succeeds once a file is there, a URL answers, a time has come.

Write a ``Sensor`` to wait for something else, and offer it as an entry point of the group ``propfan.sensors``.
"""

from __future__ import annotations

from propfan.plugins.connectors.sensor.connector import SensorConnector
from propfan.plugins.connectors.sensor.sensors import Look, Sensor

__all__ = ["Look", "Sensor", "connectors"]

connectors = (SensorConnector,)
