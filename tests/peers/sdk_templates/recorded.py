"""Task templates that real SDKs serialised, so that tests need no SDK: ``templates/GENERATION-NAME.json``.

``python -m tests.peers.sdk_templates`` makes them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf import json_format

FOLDER: Final = Path(__file__).parent / "templates"


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One task.

    Attributes:
        name: ``GENERATION-NAME``; the generation is ``flyte1`` or ``flyte2``.
        versions: Of the SDK and the plugin that made it.
        template: ``core.TaskTemplate``; both generations have it in the same wire form.
    """

    name: str
    versions: Mapping[str, str]
    template: bytes

    @property
    def message(self) -> tasks_pb2.TaskTemplate:
        return tasks_pb2.TaskTemplate.FromString(self.template)


class _File(msgspec.Struct):
    versions: dict[str, str]
    readable: dict[str, object]
    """The template as JSON, for people."""
    template: str


def recorded(*task_types: str) -> Sequence[Recorded]:
    """Those of the task types, or all, by name."""
    found = [read(path) for path in sorted(FOLDER.glob("*.json"))]
    return [one for one in found if not task_types or one.message.type in task_types]


def read(path: Path) -> Recorded:
    content = msgspec.json.decode(path.read_bytes(), type=_File)
    return Recorded(name=path.stem, versions=content.versions, template=base64.b64decode(content.template))


def write(one: Recorded) -> None:
    readable = json_format.MessageToDict(one.message)
    content = _File(dict(sorted(one.versions.items())), readable, base64.b64encode(one.template).decode())
    FOLDER.mkdir(exist_ok=True)
    text = msgspec.json.format(msgspec.json.encode(content, order="sorted"), indent=1)
    (FOLDER / f"{one.name}.json").write_bytes(text + b"\n")
