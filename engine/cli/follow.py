"""Submits the tasks of ``propfan run`` and follows them to their ends, heeding Ctrl-C."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from typing import Final, TypeVar

import anyio
import anyio.abc
import rich_click as click
from rich.console import Console
from rich.live import Live

from propfan.engine.api import Engine
from propfan.engine.cli.app import print_json
from propfan.engine.cli.progress import Board
from propfan.engine.cli.tables import as_json as status_as_json
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import Submission, TaskStatus
from propfan.pluginmachinery.errors import NotFoundError, ThrottledError, UnavailableError

_SUBMITTED_AT_ONCE: Final = 256
_LOOK_EVERY_S: Final = 1.0
_TELL_EVERY: Final = 10
"""Looks between two lines about all tasks, where there is no terminal; only when something has changed."""
_RETRY_S: Final = 0.5
_ROOM_BYTES: Final = 64 * 1024
"""A disk with less room is full: a few records of tasks take as much."""

_Result = TypeVar("_Result")


class Interrupts:
    """The first Ctrl-C (or SIGTERM) asks, the second one does not."""

    def __init__(self) -> None:
        self.first: Final = anyio.Event()
        self.second: Final = anyio.Event()

    async def listen(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Until cancelled."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                (self.second if self.first.is_set() else self.first).set()


@asynccontextmanager
async def interrupted() -> AsyncIterator[Interrupts]:
    """Signals become events while the block runs; it is not cancelled."""
    interrupts = Interrupts()
    async with anyio.create_task_group() as group:
        await group.start(interrupts.listen)
        yield interrupts
        group.cancel_scope.cancel()


class Follower:
    """One run, on a terminal or in a pipe.

    Attributes:
        statuses: Of the tasks that are over.
    """

    def __init__(self, engine: Engine, console: Console, interrupts: Interrupts, *, as_json: bool) -> None:
        self._engine: Final = engine
        self._console: Final = console
        self._interrupts: Final = interrupts
        self._as_json: Final = as_json
        self._is_shown: Final = console.is_terminal and not (as_json and sys.stdout.isatty())
        self._keys: Final[dict[TaskKey, None]] = {}
        self._board: Final = Board(0)
        self._all_submitted: Final = anyio.Event()
        self.statuses: Final[dict[TaskKey, TaskStatus]] = {}

    @property
    def unfinished(self) -> int:
        return len(self._keys) - len(self.statuses)

    async def run(self, found: Sequence[TaskKey], submissions: Sequence[Submission]) -> None:
        """Until all have ended and what they owned is gone, or until the second Ctrl-C."""
        self._board.expected = len({*found}) + len(submissions)
        display: AbstractContextManager[object] = nullcontext()
        if self._is_shown:
            display = Live(self._board, console=self._console, refresh_per_second=8, transient=True)
        with display:
            async with anyio.create_task_group() as group:
                group.start_soon(self._leave_on_second, group.cancel_scope)
                group.start_soon(self._abort_on_first)
                group.start_soon(self._look)
                for key in found:
                    self._add(key)
                await self._submit(submissions)
                self._board.expected = len(self._keys)  # a repeated run has found its own
                self._all_submitted.set()
                group.start_soon(self._follow_events)
                for key in list(self._keys):
                    await self._finish(key)
                await self._engine.settled()
                group.cancel_scope.cancel()
        for key in [key for key in self._keys if key not in self.statuses]:  # it was left early
            with suppress(NotFoundError):
                self._take(key, await self._engine.get(key))

    def _add(self, key: TaskKey) -> None:
        self._keys[key] = None
        self._board.add(key.name)

    async def _submit(self, submissions: Sequence[Submission]) -> None:
        """Many at a time, because they share the cost of becoming durable; no more after Ctrl-C."""
        for start in range(0, len(submissions), _SUBMITTED_AT_ONCE):
            async with anyio.create_task_group() as group:
                for one in submissions[start : start + _SUBMITTED_AT_ONCE]:
                    group.start_soon(self._submit_one, one)

    async def _submit_one(self, one: Submission) -> None:
        if not self._interrupts.first.is_set():
            self._add(await self._persist(lambda: self._engine.submit(one)))

    async def _persist(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        """Repeats what could not be written down, e.g. to a full disk, and says so."""
        while True:
            try:
                result = await call()
            except (UnavailableError, ThrottledError) as error:
                self._tell(f"waiting: {error}")
                await anyio.sleep(max(_RETRY_S, error.retry_after_s))
            else:
                return result

    async def _follow_events(self) -> None:
        async with self._engine.events() as events:
            async for _, event in events:
                self._board.take(event)
                key = TaskKey(event.namespace, event.name)
                if event.is_final and key in self._keys:
                    await self._finish(key)

    async def _finish(self, key: TaskKey) -> None:
        """Waits for the task's end and keeps it, once."""
        if key in self.statuses:
            return
        try:
            self._take(key, await self._engine.wait(key))
        except NotFoundError:
            if key in self._keys:
                del self._keys[key]
                self._board.expected -= 1
                self._tell(f"{key.name} was deleted")

    def _take(self, key: TaskKey, status: TaskStatus) -> None:
        if status.outcome is not None and key not in self.statuses:
            self.statuses[key] = status
            if self._as_json:
                print_json(status_as_json(status))

    # -- Interruptions -----------------------------------------------------------------------------

    async def _abort_on_first(self) -> None:
        await self._interrupts.first.wait()
        self._tell("aborting; Ctrl-C again to leave at once")
        await self._all_submitted.wait()
        for key in [key for key in self._keys if key not in self.statuses]:
            try:
                await self._persist(lambda key=key: self._engine.abort(key, "interrupted"))  # type: ignore[misc]
            except NotFoundError:
                continue  # deleted meanwhile, which its waiter tells

    async def _leave_on_second(self, everything: anyio.CancelScope) -> None:
        await self._interrupts.second.wait()
        self._engine.hurry()
        everything.cancel()

    # -- What is told ------------------------------------------------------------------------------

    async def _look(self) -> None:
        told, was_full = "", False
        for look in itertools.count(1):
            await anyio.sleep(_LOOK_EVERY_S)
            if (is_full := self._disk_is_full()) != was_full:
                was_full = is_full
                data_dir = self._engine.config.data_dir
                self._tell(f"the disk is full: {data_dir} needs room" if is_full else "there is room on the disk again")
            news = list(self._board.take_waiting(self._engine.waiting()))
            if look % _TELL_EVERY == 0 and self._board.phases != told:
                told = self._board.phases
                news.append(self._board.line)
            if not self._is_shown:
                for line in news:
                    click.echo(line, err=True)

    def _disk_is_full(self) -> bool:
        """Then also the ends of processes are not known yet, so that their tasks seem to run."""
        if self._engine.config.data_dir is None:
            return False
        disk = os.statvfs(self._engine.config.data_dir)
        return disk.f_bavail * disk.f_frsize < _ROOM_BYTES

    def _tell(self, notice: str) -> None:
        if notice != self._board.notice:
            self._board.notice = notice
            if not self._is_shown:
                click.echo(notice, err=True)
