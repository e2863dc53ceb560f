"""Runs tasks of type ``train-classifier`` as processes of this machine (Linux), which outlive the service.

All that is known of a job is in its folder, so any replica that sees the folder can look at the job. A lock
that the process inherits tells whether it lives.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Blob,
    ConnectorSetup,
    JobContext,
    LogLine,
    LogPage,
    LogsQuery,
    Metric,
    MetricsQuery,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)

PROGRAM = Path(__file__).with_name("training_job.py")


class TrainingConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``connectors.training``: where jobs keep their files."""

    folder: str = str(Path(tempfile.gettempdir()) / "propfan-training")


class TrainingSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task."""

    hidden: Annotated[int, Meta(ge=1, le=64)] = 8
    epochs: Annotated[int, Meta(ge=1, le=10_000)] = 40
    rate: Annotated[float, Meta(gt=0, le=1)] = 0.1
    noise: Annotated[float, Meta(ge=0, le=1)] = 0.1
    seed: int = 0


class TrainingMeta(ResourceMeta, frozen=True):
    """What finds a job again: the name of its folder."""

    job: str


class Result(msgspec.Struct, frozen=True):
    accuracy: float
    loss: float


class TrainingConnector(AsyncConnector[TrainingMeta]):
    """Its methods work with files and processes, so they are plain ones, which run in threads."""

    name = "Training Connector"
    categories = (TaskCategory("train-classifier"),)
    meta_type = TrainingMeta
    max_concurrent_calls = 16

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._root = Path(setup.section("training", TrainingConfig).folder)

    def create(self, task: TaskRequest) -> TrainingMeta:
        spec = task.custom(TrainingSpec)
        meta = TrainingMeta(task.unique_name())
        folder = self._root / meta.job
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            if self._lock(lock) and not any((folder / name).exists() for name in ("result.json", "deleted")):
                (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
                with (folder / "log.txt").open("wb") as log:
                    command = ["setsid", "--fork", sys.executable, str(PROGRAM), str(folder)]
                    subprocess.run(command, stdout=log, stderr=log, pass_fds=(lock,), check=True)
        finally:
            os.close(lock)
        return meta

    def get(self, meta: TrainingMeta, job: JobContext) -> Resource:
        folder = self._folder(meta)
        if folder is None or (folder / "deleted").exists():
            return Resource(RemotePhase.ABORTED, "the job was deleted")
        is_over = self._is_over(folder)  # before the result is looked for: it is written last
        lines = self._log(folder)
        if (folder / "result.json").exists():
            result = msgspec.json.decode((folder / "result.json").read_bytes(), type=Result)
            outputs = {"accuracy": result.accuracy, "model": Blob(str(folder / "model.json"), "json")}
            return Resource(RemotePhase.SUCCEEDED, lines[-1], outputs=outputs, custom_info={"loss": result.loss})
        if is_over:
            return Resource(RemotePhase.FAILED, "\n".join(lines[-5:]) or "the process ended without a word")
        return Resource(RemotePhase.RUNNING, lines[-1]) if lines else Resource(RemotePhase.INITIALIZING)

    def delete(self, meta: TrainingMeta, job: JobContext) -> None:
        folder = self._folder(meta)
        if folder is not None:
            (folder / "deleted").touch()

    def get_metrics(self, meta: TrainingMeta, query: MetricsQuery) -> list[Metric]:
        folder = self._folder(meta)
        losses = [float(line.split()[3]) for line in self._log(folder) if line.startswith("epoch")] if folder else []
        return [Metric("loss", {"values": losses})] if "loss" in (query.queries or ["loss"]) else []

    async def get_logs(self, meta: TrainingMeta, query: LogsQuery) -> AsyncIterator[LogPage]:
        folder = self._folder(meta)
        lines = self._log(folder) if folder else []
        begin = int(query.token or 0)
        end = min(begin + (query.lines or 1000), len(lines))
        yield LogPage([LogLine(line) for line in lines[begin:end]], str(end) if end < len(lines) else "")

    def _folder(self, meta: TrainingMeta) -> Path | None:
        """Where the job's files are; ``None`` when there is no such job."""
        if not re.fullmatch(r"[a-z0-9-]+", meta.job):  # metas come back from outside
            return None
        folder = self._root / meta.job
        return folder if folder.is_dir() else None

    def _is_over(self, folder: Path) -> bool:
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
        try:
            return self._lock(lock)
        finally:
            os.close(lock)

    def _lock(self, descriptor: int) -> bool:
        """Whether nobody else has it. It is held until the last process closes the file."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _log(self, folder: Path) -> list[str]:
        try:
            return (folder / "log.txt").read_text().splitlines()
        except FileNotFoundError:
            return []
