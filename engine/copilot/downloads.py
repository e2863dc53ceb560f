"""A task's inputs as files: one for each value, and one with all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import anyio
import msgspec
import yaml
from flyteidl2.core import literals_pb2, types_pb2
from google.protobuf import json_format

from propfan.engine.copilot.values import to_text
from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.errors import DecodeError
from propfan.pluginmachinery.readers import literal_map

ALL: Final = "inputs"
"""Name, without its suffix, of the file with all values."""


async def download(store: ObjectStore, remote: str, folder: Path, layout: str, form: str) -> None:
    """Writes the inputs into the folder.

    Args:
        remote: Of ``inputs.pb``.
        layout: ``NAMED_DIR`` keeps a file's own name, in a folder by the input's; else the file has the input's name.
        form: Of the file with all values: ``JSON``, ``YAML``, or ``PROTO``, which is always there.

    Raises:
        StorageError, DecodeError, ValueProblemError: not all could be written.
    """
    content = await store.get(remote)
    inputs = literal_map(content, remote)
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    writer = _Writer(store, is_named=layout == "NAMED_DIR")
    known: dict[str, Any] = {}
    for name, literal in sorted(inputs.literals.items()):
        if PurePosixPath(name).name != name or name == "..":
            raise DecodeError(remote, f"input {name!r} can be no name of a file")
        known[name] = await writer.write(literal, folder / name)
    await anyio.Path(folder / f"{ALL}.pb").write_bytes(content)
    if form == "JSON":
        await anyio.Path(folder / f"{ALL}.json").write_bytes(msgspec.json.encode(known))
    elif form == "YAML":
        await anyio.Path(folder / f"{ALL}.yaml").write_text(yaml.safe_dump(known), encoding="utf-8")


class _Writer:
    def __init__(self, store: ObjectStore, *, is_named: bool) -> None:
        self._store: Final = store
        self._is_named: Final = is_named

    async def write(self, literal: literals_pb2.Literal, path: Path) -> Any:
        """Writes a value to the path, and says it in plain types; files by their path."""
        match literal.WhichOneof("value"):
            case "collection":
                return await self._write_list(literal.collection.literals, path)
            case "map":
                await anyio.Path(path).mkdir(parents=True, exist_ok=True)
                return {
                    name: await self.write(value, path / PurePosixPath(name).name)
                    for name, value in sorted(literal.map.literals.items())
                }
            case "scalar":
                return await self._write_scalar(literal.scalar, path)
        await anyio.Path(path).write_bytes(b"null")
        return None

    async def _write_list(self, literals: Sequence[literals_pb2.Literal], path: Path) -> list[Any]:
        await anyio.Path(path).mkdir(parents=True, exist_ok=True)
        found, names = [], set[str]()
        for number, literal in enumerate(literals):
            name = str(number)
            if self._is_named and literal.scalar.HasField("blob"):
                name = base = PurePosixPath(literal.scalar.blob.uri).name or name
                collisions = 0
                while name in names:
                    collisions += 1
                    name = f"{collisions}_{base}"
                names.add(name)
                await self._fetch(literal.scalar.blob, path / name)
                found.append(str(path / name))
            else:
                found.append(await self.write(literal, path / name))
        return found

    async def _write_scalar(self, scalar: literals_pb2.Scalar, path: Path) -> Any:
        if scalar.HasField("union"):
            return await self.write(scalar.union.value, path)
        if scalar.HasField("blob"):
            is_file = scalar.blob.metadata.type.dimensionality == types_pb2.BlobType.SINGLE
            if self._is_named and is_file:
                await anyio.Path(path).mkdir(parents=True, exist_ok=True)
                path /= PurePosixPath(scalar.blob.uri).name or "0"
            await self._fetch(scalar.blob, path)
            return str(path)
        content = to_text(scalar)
        await anyio.Path(path).write_bytes(content)
        primitive = scalar.primitive
        match primitive.WhichOneof("value"):
            case "integer" | "float_value" | "boolean" as kind:
                return getattr(primitive, kind)
        if scalar.HasField("generic"):
            return json_format.MessageToDict(scalar.generic)
        return None if scalar.HasField("none_type") else content.decode(errors="replace")

    async def _fetch(self, blob: literals_pb2.Blob, path: Path) -> None:
        if blob.metadata.type.dimensionality == types_pb2.BlobType.SINGLE:
            await self._store.get_file(blob.uri, path)
            return
        await anyio.Path(path).mkdir(parents=True, exist_ok=True)
        for name in await self._store.names_below(blob.uri):
            target = path.joinpath(*PurePosixPath(name).parts)
            await anyio.Path(target.parent).mkdir(parents=True, exist_ok=True)
            await self._store.get_file(iopaths.join(blob.uri, name), target)
