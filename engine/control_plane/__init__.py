"""Flyte 2's control plane over an engine in the same process."""

from __future__ import annotations

from propfan.engine.control_plane.config import ControlPlaneConfig
from propfan.engine.control_plane.plane import ControlPlane

__all__ = ["ControlPlane", "ControlPlaneConfig"]
