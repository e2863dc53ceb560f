"""The pages on connectors, ``docs/connectors/*.md``, and what they show."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.connector import TaskRequest
from propfan.pluginmachinery.testing import connector_task, literal_map

DOCS: Final = Path(__file__).parents[4] / "docs"
NAMES: Final = sorted(path.stem for path in (DOCS / "connectors").glob("*.md"))


class Page:
    """One of them."""

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self.text: Final = (DOCS / "connectors" / f"{name}.md").read_text()

    def blocks(self, language: str = "yaml") -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)

    def block(self, start: str, language: str = "yaml") -> str:
        """The only one that begins so."""
        (found,) = (text for text in self.blocks(language) if text.startswith(start))
        return found

    def task(self, secrets: Mapping[str, str] | None = None, **inputs: Any) -> TaskRequest:
        """The first file that the page shows."""
        template = tasks_pb2.TaskTemplate()
        json_format.ParseDict(yaml.safe_load(self.blocks()[0]), template)
        return connector_task(template, literal_map(**inputs), secrets=secrets)

    def settings(self) -> Mapping[str, Any]:
        """The last that the page shows; with what stands around the section or without."""
        printed = [yaml.safe_load(text) for text in self.blocks()]
        last = [values for values in printed if "type" not in values][-1]
        section: Mapping[str, Any] = last["connectors"][self.name] if "connectors" in last else last
        return section
