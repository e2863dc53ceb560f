"""Sensors of an author's own: one of propfan's kind, and some that are made as flytekit's are."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

import anyio

from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.plugins.connectors.sensor import Look, Sensor


class Counting(Sensor):
    async def poke(self, n: int, at_least: int = 3) -> bool | Look:
        match n:
            case -1:
                raise PermanentError("Gone", "it will never be")
            case -2:
                raise TransientError("", "not now")
            case -3:
                await anyio.sleep_forever()
        return Look(n >= at_least, f"{n} of {at_least}")


class LikeFlytekits:
    def __init__(self, name: str, config: Any = None, **more: Any) -> None:
        assert (name, more) == ("sensor", {})
        self.config = config

    async def poke(self, path: str, since: datetime) -> bool:
        return path == self.config["path"] and since.year == 2030


class Blocking:
    def __init__(self, name: str, config: Any = None) -> None:
        self.thread = threading.get_ident()

    def poke(self) -> bool:
        return threading.get_ident() != self.thread


class NoSensor:
    pass


def poke() -> bool:
    return True
