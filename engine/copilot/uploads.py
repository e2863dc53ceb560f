# ruff: noqa: ASYNC240 - a process of its own, which does one thing after the other
"""What a container left in a folder, as its task's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2

from propfan.engine.copilot.values import ValueProblemError, from_text
from propfan.engine.storage import ObjectStore
from propfan.pluginmachinery import iopaths

ERROR_FILE: Final = "_ERROR"
"""A container that leaves one has failed; its content says why."""

_VALUE_LIMIT_BYTES: Final = 2 * 2**20
"""Of a value that is no file: outputs may not be larger in all."""


class OutputProblemError(Exception):
    """The folder does not hold what the task declares, or says that it failed."""


def has_told_of_failure(folder: Path) -> bool:
    return (folder / ERROR_FILE).exists()


async def collect(
    store: ObjectStore, folder: Path, interface: interface_pb2.TypedInterface, raw_prefix: str
) -> common_pb2.Outputs:
    """The outputs; files among them are stored below ``raw_prefix`` then.

    Raises:
        OutputProblemError: as it says.
        StorageError: a file could not be stored now.
    """
    if has_told_of_failure(folder):
        raise OutputProblemError(f"User Error: {(folder / ERROR_FILE).read_text(errors='replace')}")
    outputs = common_pb2.Outputs()
    for entry in sorted(interface.outputs.variables, key=lambda entry: entry.key):
        try:
            literal = await _Reader(store).read(
                folder / entry.key, entry.value.type, iopaths.join(raw_prefix, entry.key)
            )
        except (ValueProblemError, OSError) as error:
            raise OutputProblemError(f"output '{entry.key}': {error}") from error
        outputs.literals.add(name=entry.key, value=literal)
    return outputs


class _Reader:
    def __init__(self, store: ObjectStore) -> None:
        self._store: Final = store

    async def read(self, path: Path, kind: types_pb2.LiteralType, remote: str) -> literals_pb2.Literal:
        literal = literals_pb2.Literal()
        match kind.WhichOneof("type"):
            case "simple" if kind.simple == types_pb2.SimpleType.NONE:
                literal.scalar.none_type.SetInParent()
            case "simple":
                literal.scalar.CopyFrom(from_text(_content(path), kind.simple))
            case "blob":
                await self._store_blob(literal.scalar.blob, path, kind.blob, remote)
            case "collection_type":
                literal.collection.SetInParent()
                for name in sorted(
                    _entries(path), key=lambda name: (len(name), name) if name.isdigit() else (99, name)
                ):
                    read = await self.read(path / name, kind.collection_type, iopaths.join(remote, name))
                    literal.collection.literals.append(read)
            case "union_type":
                return await self._read_union(path, kind.union_type, remote)
            case other:
                raise ValueProblemError(f"a type of kind {other} can not be read from a file")
        return literal

    async def _read_union(self, path: Path, kind: types_pb2.UnionType, remote: str) -> literals_pb2.Literal:
        """The first variant that the file is; none, where that is one, when there is no file."""
        problem: Exception = FileNotFoundError("no such file")
        is_there = path.exists()
        for variant in kind.variants:
            if (variant.simple == types_pb2.SimpleType.NONE and variant.WhichOneof("type") == "simple") == is_there:
                continue
            try:
                read = await self.read(path, variant, remote)
            except (ValueProblemError, OSError) as error:
                problem = error
                continue
            literal = literals_pb2.Literal()
            literal.scalar.union.value.CopyFrom(read)
            literal.scalar.union.type.CopyFrom(variant)
            return literal
        raise ValueProblemError(str(problem))

    async def _store_blob(self, blob: literals_pb2.Blob, path: Path, kind: types_pb2.BlobType, remote: str) -> None:
        blob.metadata.type.CopyFrom(kind)
        blob.uri = remote.removeprefix("file://")  # the SDK opens files of the machine by their path only
        if kind.dimensionality == types_pb2.BlobType.SINGLE:
            if not path.is_file():
                raise ValueProblemError("no such file")
            await self._store.put_file(remote, path)
            return
        if not path.is_dir():
            raise ValueProblemError("no such folder")
        for file in await anyio.to_thread.run_sync(lambda: [f for f in sorted(path.rglob("*")) if f.is_file()]):
            await self._store.put_file(iopaths.join(remote, str(file.relative_to(path))), file)


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ValueProblemError("no such file")
    size_bytes = path.stat().st_size
    if size_bytes > _VALUE_LIMIT_BYTES:
        raise ValueProblemError(f"has {size_bytes} bytes, a value may have {_VALUE_LIMIT_BYTES}: declare a file")
    return path.read_bytes()


def _entries(path: Path) -> list[str]:
    if not path.is_dir():
        raise ValueProblemError("no such folder")
    return [entry.name for entry in path.iterdir()]
