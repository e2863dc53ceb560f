"""A sensor of a user's own, as flytekit's documentation teaches it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataclasses_json import DataClassJsonMixin
from flytekit.sensor.base_sensor import BaseSensor


@dataclass
class Least(DataClassJsonMixin):
    files: int


class CountSensor(BaseSensor):
    """Adds a file at each look, until there are enough."""

    def __init__(self, name: str, config: Any = None, **more: Any) -> None:
        super().__init__(name=name, sensor_config=config, **more)
        self._least = config

    async def poke(self, folder: str) -> bool:
        files = len(list(Path(folder).iterdir()))
        (Path(folder) / str(files)).touch()
        return files >= int(self._least["files"])
