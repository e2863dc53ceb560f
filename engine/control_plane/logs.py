"""The output of actions that run as processes, while it is written and afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import anyio
from flyteidl2.logs.dataplane import payload_pb2

from propfan.engine.control_plane.ledger import Ledger
from propfan.engine.control_plane.records import ActionKey, ActionRecord
from propfan.engine.processes import logs as process_logs
from propfan.pluginmachinery.errors import NotFoundError

_LOOK_S: Final = 0.25
"""Between looks at a file that may grow."""

_CHUNK_BYTES: Final = 256 * 1024


class Logs:
    """Reads log files of the process runtime. Without a data directory there are none."""

    def __init__(self, ledger: Ledger, data_dir: Path | None) -> None:
        self._ledger: Final = ledger
        self._root: Final = data_dir / "processes" if data_dir is not None else None

    async def follow(self, key: ActionKey, attempt: int) -> AsyncIterator[Sequence[payload_pb2.LogLine]]:
        """Lines as they come, until the attempt is over and all is told.

        Raises:
            NotFoundError: there is no such action, or it has written nothing yet.
        """
        path = self._path(await self._ledger.action(key), attempt)
        if path is None or not await anyio.Path(path).exists():
            raise NotFoundError(f"logs of action {key}, attempt {attempt}", "there are none yet")
        async with await anyio.open_file(path, "rb") as file:
            rest = b""
            while True:
                is_over = self._is_over(await self._ledger.action(key), attempt)
                while chunk := await file.read(_CHUNK_BYTES):
                    *lines, rest = (rest + chunk).split(b"\n")
                    if lines:
                        yield [_line(line) for line in lines]
                if is_over:
                    if rest:
                        yield [_line(rest)]
                    return
                await anyio.sleep(_LOOK_S)

    def _path(self, record: ActionRecord, attempt: int) -> Path | None:
        """Of the primary container."""
        for known in record.details.attempts:
            if known.attempt == attempt and self._root is not None:
                for pod in known.log_context.pods:
                    if pod.pod_name == known.log_context.primary_pod_name:
                        container = pod.primary_container_name
                        return process_logs.log_path(self._root, pod.namespace, pod.pod_name, container, 0)
        return None

    @staticmethod
    def _is_over(record: ActionRecord, attempt: int) -> bool:
        return record.is_over or any(known.attempt > attempt for known in record.details.attempts)


def _line(raw: bytes) -> payload_pb2.LogLine:
    return payload_pb2.LogLine(message=raw.decode(errors="replace").rstrip("\r"), originator=payload_pb2.USER)
