"""How another process asks a running engine: a Unix socket in its data directory.

One JSON line in, one JSON line out. Only the owner of the data directory can connect.
``open_tasks`` gives the same answers when no engine runs, from the database itself.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

import anyio
import msgspec
import structlog
from anyio.abc import SocketStream, UNIXSocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from propfan.engine import submission
from propfan.engine.api import DATABASE_FILE, Engine, Explanation
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.config import EngineConfig
from propfan.engine.embedded import EmbeddedCluster
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Stage
from propfan.pluginmachinery.errors import ConfigError, InUseError, NotFoundError, PropfanError, UnavailableError
from propfan.pluginmachinery.taskaction import ABORT_ANNOTATION

logger = structlog.get_logger(__name__)

_MAX_REQUEST_BYTES: Final = 64 * 1024
_MAX_REPLY_BYTES: Final = 256 * 1024 * 1024
_PATIENCE_S: Final = 5.0
"""How long to wait for an engine that has locked the database and does not answer yet, or any more."""
_RETRY_S: Final = 0.05
_SOCKET_PATH_LIMIT: Final = 100
"""``sun_path`` of a Unix socket has 108 bytes on Linux."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    method: str
    key: TaskKey = TaskKey("", "")
    reason: str = ""


class Reply(msgspec.Struct, frozen=True):
    tasks: Sequence[TaskStatus] = ()
    explanation: Explanation | None = None
    error: str = ""
    is_not_found: bool = False


class Tasks(Protocol):
    """What can be asked of the tasks in a data directory."""

    is_live: bool
    """Whether an engine is driving them at the moment."""

    async def list(self) -> Sequence[TaskStatus]: ...

    async def explain(self, key: TaskKey) -> Explanation: ...

    async def abort(self, key: TaskKey, reason: str) -> None: ...


def socket_path(data_dir: Path) -> Path:
    """In the data directory, or in the system's temporary one when that name is too long for a socket."""
    path = data_dir.absolute() / "engine.sock"
    if len(str(path).encode()) <= _SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()[:24]
    return Path(tempfile.gettempdir()) / f"propfan-{os.getuid()}-{digest}.sock"


@asynccontextmanager
async def serve(engine: Engine, data_dir: Path) -> AsyncIterator[None]:
    """Answers requests about ``engine`` while the block runs."""
    path = socket_path(data_dir)
    path.unlink(missing_ok=True)  # the database's lock has shown that nobody else serves it
    async with await anyio.create_unix_listener(path, mode=0o600) as listener, anyio.create_task_group() as tasks:

        async def answer(stream: SocketStream) -> None:
            async with stream:
                try:
                    line = await BufferedByteReceiveStream(stream).receive_until(b"\n", _MAX_REQUEST_BYTES)
                    await stream.send(msgspec.json.encode(await _reply(engine, line)) + b"\n")
                except (anyio.IncompleteRead, anyio.DelimiterNotFound, anyio.BrokenResourceError):
                    logger.debug("control connection broke off")

        tasks.start_soon(listener.serve, answer)
        try:
            yield
        finally:
            tasks.cancel_scope.cancel()
            path.unlink(missing_ok=True)


async def _reply(engine: Engine, line: bytes) -> Reply:
    try:
        request = msgspec.json.decode(line, type=Request)
        match request.method:
            case "list":
                return Reply(tasks=await engine.list())
            case "explain":
                return Reply(explanation=await engine.explain(request.key))
            case "abort":
                await engine.abort(request.key, request.reason)
                return Reply()
            case _:
                return Reply(error=f"there is no method '{request.method}'")
    except (PropfanError, msgspec.DecodeError) as error:
        return Reply(error=str(error), is_not_found=isinstance(error, NotFoundError))


@asynccontextmanager
async def open_tasks(data_dir: Path) -> AsyncIterator[Tasks]:
    """The tasks of a data directory, through its engine when one runs.

    Raises:
        ConfigError: there is no database in the directory.
        InUseError: an engine that has begun or ends does not answer, for longer than ``_PATIENCE_S``.
    """
    if not (data_dir / DATABASE_FILE).exists():
        raise ConfigError("--data-dir", f"{data_dir} holds no tasks: 'propfan run' makes it")
    async with AsyncExitStack() as stack:
        yield await _open_tasks(data_dir, stack)


async def _open_tasks(data_dir: Path, stack: AsyncExitStack) -> Tasks:
    give_up_at = anyio.current_time() + _PATIENCE_S
    while True:
        try:
            stream = await stack.enter_async_context(await anyio.connect_unix(socket_path(data_dir)))
        except (FileNotFoundError, ConnectionRefusedError):
            try:
                return _Offline(await stack.enter_async_context(EmbeddedCluster.open(data_dir / DATABASE_FILE)))
            except InUseError:
                if anyio.current_time() >= give_up_at:
                    raise
                await anyio.sleep(_RETRY_S)
        else:
            return _Online(stream, socket_path(data_dir))


class _Online:
    is_live = True

    def __init__(self, stream: UNIXSocketStream, path: Path) -> None:
        self._first: UNIXSocketStream | None = stream
        self._path: Final = path

    async def list(self) -> Sequence[TaskStatus]:
        return (await self._ask(Request("list"))).tasks

    async def explain(self, key: TaskKey) -> Explanation:
        reply = await self._ask(Request("explain", key))
        if reply.explanation is None:
            raise NotFoundError(f"task {key}", "the engine gave no explanation")
        return reply.explanation

    async def abort(self, key: TaskKey, reason: str) -> None:
        await self._ask(Request("abort", key, reason))

    async def _ask(self, request: Request) -> Reply:
        stream, self._first = self._first, None
        try:
            async with stream or await anyio.connect_unix(self._path) as stream:
                await stream.send(msgspec.json.encode(request) + b"\n")
                line = await BufferedByteReceiveStream(stream).receive_until(b"\n", _MAX_REPLY_BYTES)
        except (OSError, anyio.IncompleteRead, anyio.BrokenResourceError) as error:
            raise UnavailableError("engine", "it stopped before it answered: try again") from error
        reply = msgspec.json.decode(line, type=Reply)
        if reply.is_not_found:
            raise NotFoundError(f"task {request.key}", "there is no such task; 'propfan get' lists those there are")
        if reply.error:
            raise PropfanError(reply.error)
        return reply


class _Offline:
    is_live = False

    def __init__(self, cluster: EmbeddedCluster) -> None:
        self._cluster: Final = cluster

    async def list(self) -> Sequence[TaskStatus]:
        return await submission.all_of(self._cluster)

    async def explain(self, key: TaskKey) -> Explanation:
        seen = await self._cluster.get(TASK_ACTION, *key)
        status, errors = submission.status_of(seen), submission.attempt_errors_of(seen)
        if status.outcome is not None:
            return Explanation(status, Stage.ENDED.value, "none", "", "", None, None, "", True, errors)
        waiting_for = "an engine: none runs on this data directory, 'propfan run' goes on with its tasks"
        return Explanation(status, "", "none", waiting_for, "", None, None, "", True, errors)

    async def abort(self, key: TaskKey, reason: str) -> None:
        """Written down; carried out by the next engine that runs."""
        await self._cluster.patch(TASK_ACTION, *key, {"metadata": {"annotations": {ABORT_ANNOTATION: reason}}})


def data_dir_of(config: EngineConfig) -> Path:
    if config.data_dir is None:
        raise ConfigError("data-dir", "is needed here: name a folder")
    return config.data_dir
