"""The output of actions, while it is written and afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import anyio
import msgspec
from flyteidl2.logs.dataplane import payload_pb2

from propfan.engine.control_plane.ledger import Ledger
from propfan.engine.control_plane.records import ActionKey, ActionRecord
from propfan.engine.processes import logs as process_logs
from propfan.pluginmachinery.errors import ApiError, NotFoundError

if TYPE_CHECKING:
    from propfan.engine.kubernetes.cluster import KubernetesCluster

_LOOK_S: Final = 0.25
"""Between looks at a file that may grow."""

_CHUNK_BYTES: Final = 256 * 1024


class Container(msgspec.Struct, frozen=True):
    """Which one wrote a log."""

    namespace: str
    pod: str
    name: str


class LogSource(Protocol):
    """Where containers' output is."""

    def follow(self, container: Container, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """All that the container writes, in pieces as they come, until it is over.

        Raises:
            NotFoundError: it has written nothing yet, or what it wrote is gone.
        """
        ...


class ProcessLogs:
    """Files of the process runtime. Without a data directory there are none."""

    def __init__(self, data_dir: Path | None) -> None:
        self._root: Final = data_dir / "processes" if data_dir is not None else None

    async def follow(self, container: Container, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        path = None
        if self._root is not None:
            path = process_logs.log_path(self._root, container.namespace, container.pod, container.name, 0)
        if path is None or not await anyio.Path(path).exists():
            raise NotFoundError(f"logs of pod {container.namespace}/{container.pod}", "there are none")
        async with await anyio.open_file(path, "rb") as file:
            while True:
                last_look = await is_over()
                while chunk := await file.read(_CHUNK_BYTES):
                    yield chunk
                if last_look:
                    return
                await anyio.sleep(_LOOK_S)


class PodLogs:
    """What the API server gives, for as long as the pod is there."""

    def __init__(self, cluster: KubernetesCluster) -> None:
        self._cluster: Final = cluster

    async def follow(self, container: Container, is_over: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        try:
            async with self._cluster.logs(
                container.namespace, container.pod, container=container.name, follow=True
            ) as pieces:
                async for piece in pieces:
                    yield piece
        except ApiError as error:
            raise NotFoundError(f"logs of pod {container.namespace}/{container.pod}", str(error)) from error


class Logs:
    """The logs of actions, wherever their containers run."""

    def __init__(self, ledger: Ledger, source: LogSource) -> None:
        self._ledger: Final = ledger
        self._source: Final = source

    async def follow(self, key: ActionKey, attempt: int) -> AsyncIterator[Sequence[payload_pb2.LogLine]]:
        """Lines as they come, until the attempt is over and all is told.

        Raises:
            NotFoundError: there is no such action, or it has written nothing yet.
        """
        container = _primary(await self._ledger.action(key), attempt)
        if container is None:
            raise NotFoundError(f"logs of action {key}, attempt {attempt}", "there are none yet")

        async def is_over() -> bool:
            record = await self._ledger.action(key)
            return record.is_over or any(known.attempt > attempt for known in record.details.attempts)

        rest = b""
        async for chunk in self._source.follow(container, is_over):
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                yield [_line(line) for line in lines]
        if rest:
            yield [_line(rest)]


def _primary(record: ActionRecord, attempt: int) -> Container | None:
    for known in record.details.attempts:
        if known.attempt == attempt:
            for pod in known.log_context.pods:
                if pod.pod_name == known.log_context.primary_pod_name:
                    return Container(pod.namespace, pod.pod_name, pod.primary_container_name)
    return None


def _line(raw: bytes) -> payload_pb2.LogLine:
    return payload_pb2.LogLine(message=raw.decode(errors="replace").rstrip("\r"), originator=payload_pb2.USER)
