"""What a task is called with and what it leaves behind, read and written through a `DataStore`.

Flyte 2 writes ``task.Inputs`` and ``task.Outputs``, Flyte 1 ``core.LiteralMap``. Their literals are the
same on the wire (repeated field 1 of name and literal), so either is read as a map; inputs'
``context`` and outputs' ``produced_artifacts`` are fields that a map does not have.
"""

from __future__ import annotations

from typing import Final

import google.protobuf.message
from flyteidl2.core import execution_pb2, literals_pb2

from propfan.pluginmachinery.contexts import DataStore, ExecutionErrorDocument, IOPaths
from propfan.pluginmachinery.errors import (
    METADATA_TOO_LARGE,
    DecodeError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    PermanentError,
    StorageError,
)
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError

DEFAULT_LIMIT_BYTES: Final = 2 * 1024 * 1024
"""Of each object that is read whole; as in Flyte (``storage.limits.maxDownloadMBs``)."""

MAX_MESSAGE_CHARS: Final = 64 * 1024
"""Of an error's message. The TaskAction's status carries it, and etcd takes 1.5 MiB for all of an object."""

_ERROR_LIMIT_FACTOR: Final = 16
"""An ``error.pb`` of up to so many times the limit is read all the same, since its code and end matter."""

ERROR_FILE_BAD_FORMAT: Final = "ErrorFileBadFormat"
ERROR_FILE_TOO_LARGE: Final = "ErrorFileTooLarge"

_ORIGINS: Final = {
    execution_pb2.ExecutionError.USER: ErrorKind.USER,
    execution_pb2.ExecutionError.SYSTEM: ErrorKind.SYSTEM,
}
_TO_ORIGIN: Final = {kind: origin for origin, kind in _ORIGINS.items()}


def literal_map(content: bytes, path: str) -> literals_pb2.LiteralMap:
    """Inputs or outputs of either Flyte.

    Raises:
        DecodeError: they are not; names ``path``.
    """
    try:
        return literals_pb2.LiteralMap.FromString(content)
    except google.protobuf.message.DecodeError as error:
        raise DecodeError(path, f"not a literal map: {error}") from error


class RemoteInputReader:
    """The inputs of one task; read once, when first asked for.

    Args:
        path: Full URI of ``inputs.pb``.
        expected: Whether the task's interface has inputs. If not, nothing is ever read.
    """

    def __init__(
        self, store: DataStore, path: str, *, expected: bool = True, limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> None:
        self._store = store
        self._path = path
        self._limit_bytes = limit_bytes
        self._literals: literals_pb2.LiteralMap | None = None
        self._is_read = not expected

    async def read(self) -> literals_pb2.LiteralMap | None:
        """All inputs, ``None`` when there are none. The same object each time: nobody may change it.

        Raises:
            StorageError: they are not there or can not be read now.
            PermanentError: they are larger than the limit; code ``MetadataTooLarge``.
            DecodeError: they are not a literal map.
        """
        if not self._is_read:
            content = await _get(self._store, self._path, "input", self._limit_bytes)
            literals = literal_map(content, self._path)
            self._literals = literals if literals.literals else None
            self._is_read = True
        return self._literals


class RemoteOutputReader:
    """What one attempt left in its output prefix."""

    def __init__(self, store: DataStore, paths: IOPaths, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._store = store
        self._paths = paths
        self._limit_bytes = limit_bytes

    async def read_error(self) -> ExecutionErrorDocument | None:
        """``error.pb``; ``None`` when there is none.

        A document that is there says that the task failed, whatever is wrong with it: a broken one is the
        system's and recoverable, one of absurd size the user's. Long messages lose their middle.

        Raises:
            StorageError: it can not be read now.
        """
        path = self._paths.error
        try:
            content = await self._store.get(path, limit_bytes=self._limit_bytes * _ERROR_LIMIT_FACTOR)
        except ObjectNotFoundError:
            return None
        except ObjectTooLargeError as error:
            problem = f"error file @[{path}] is too large [{error.size_bytes}] bytes, max allowed [{error.limit_bytes}]"
            failure = ExecutionError(ERROR_FILE_TOO_LARGE, f"{problem} bytes", ErrorKind.USER, path)
            return ExecutionErrorDocument(failure, is_recoverable=True)
        return _error_document(content, path)

    async def exists(self) -> bool:
        """Whether ``outputs.pb`` is there.

        Raises:
            PermanentError: it is larger than the limit; code ``MetadataTooLarge``.
            StorageError: the store does not say.
        """
        size_bytes = await self._store.size(self._paths.output)
        if size_bytes is not None and size_bytes > self._limit_bytes:
            raise _too_large("output", self._paths.output, size_bytes, self._limit_bytes)
        return size_bytes is not None

    async def read(self) -> bytes:
        """``outputs.pb`` as it is.

        Raises:
            PermanentError: it is larger than the limit; code ``MetadataTooLarge``.
            StorageError: it is not there or can not be read now.
        """
        return await _get(self._store, self._paths.output, "output", self._limit_bytes)

    async def has_report(self) -> bool:
        return await self._store.size(self._paths.deck) is not None


class RemoteOutputWriter:
    """Leaves outputs or an error where the task itself would have."""

    def __init__(self, store: DataStore, paths: IOPaths, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._store = store
        self._paths = paths
        self._limit_bytes = limit_bytes

    async def put(self, outputs: google.protobuf.message.Message) -> None:
        """``outputs`` is a ``task.Outputs`` or a ``core.LiteralMap``.

        Raises:
            PermanentError: they are larger than readers will take; code ``MetadataTooLarge``.
            StorageError: they can not be written now.
        """
        content = outputs.SerializeToString(deterministic=True)
        if len(content) > self._limit_bytes:
            raise _too_large("output", self._paths.output, len(content), self._limit_bytes)
        await self._store.put(self._paths.output, content)

    async def put_error(self, document: ExecutionErrorDocument) -> None:
        """Raises ``StorageError`` when it can not be written now."""
        kinds = execution_pb2.ContainerError
        error = execution_pb2.ContainerError(
            code=document.error.code,
            message=document.error.message,
            kind=kinds.RECOVERABLE if document.is_recoverable else kinds.NON_RECOVERABLE,
            origin=_TO_ORIGIN.get(document.error.kind, execution_pb2.ExecutionError.UNKNOWN),
        )
        await self._store.put(self._paths.error, execution_pb2.ErrorDocument(error=error).SerializeToString())


def _error_document(content: bytes, path: str) -> ExecutionErrorDocument:
    try:
        document = execution_pb2.ErrorDocument.FromString(content)
    except google.protobuf.message.DecodeError as problem:
        return _bad_format(f"error not formatted correctly, {problem} @path [{path}]", path)
    if not document.HasField("error"):
        return _bad_format(f"error not formatted correctly, nil error @path [{path}]", path)
    error = document.error
    failure = ExecutionError(error.code, _shortened(error.message), _ORIGINS.get(error.origin, ErrorKind.UNKNOWN), path)
    return ExecutionErrorDocument(failure, is_recoverable=error.kind == execution_pb2.ContainerError.RECOVERABLE)


def _bad_format(message: str, path: str) -> ExecutionErrorDocument:
    failure = ExecutionError(ERROR_FILE_BAD_FORMAT, message, ErrorKind.SYSTEM, path)
    return ExecutionErrorDocument(failure, is_recoverable=True)


def _shortened(message: str) -> str:
    """A traceback's beginning says where it started and its end what went wrong: both stay."""
    if len(message) <= MAX_MESSAGE_CHARS:
        return message
    half = MAX_MESSAGE_CHARS // 2
    left_out = len(message) - 2 * half
    return f"{message[:half]}\n... {left_out} characters left out ...\n{message[-half:]}"


async def _get(store: DataStore, path: str, what: str, limit_bytes: int) -> bytes:
    try:
        return await store.get(path, limit_bytes=limit_bytes)
    except ObjectTooLargeError as error:
        raise _too_large(what, path, error.size_bytes, error.limit_bytes) from error
    except ObjectNotFoundError:
        raise
    except StorageError as error:
        raise StorageError(path, f"failed to read data from dataDir [{path}]. Error: {error.problem}") from error


def _too_large(what: str, path: str, size_bytes: int, limit_bytes: int) -> PermanentError:
    message = f"{what} file @[{path}] is too large [{size_bytes}] bytes, max allowed [{limit_bytes}] bytes"
    return PermanentError(METADATA_TOO_LARGE, message)
