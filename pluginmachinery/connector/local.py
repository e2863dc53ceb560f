"""Runs one task by its connector, here and now, without a service: what an SDK's local execution needs."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from propfan.pluginmachinery.connector import resources, wire
from propfan.pluginmachinery.connector.contract import AsyncConnector, Connector, SyncConnector
from propfan.pluginmachinery.connector.requests import JobContext, TaskRequest
from propfan.pluginmachinery.connector.resources import RemotePhase, Resource
from propfan.pluginmachinery.errors import PermanentError, TransientError

CREATE_PATIENCE_S: Final = 30.0
DELETE_PATIENCE_S: Final = 30.0
"""How long ``create`` may go on, and then ``delete`` may take, while a run is being cancelled."""

A = TypeVar("A")


async def call(method: Callable[[], Awaitable[A] | A]) -> A:
    """A method of a connector: on this event loop when it is async, else in a thread.

    A thread can not be interrupted: a cancelled call ends when the method returns.
    """
    if is_async(method):
        answer = method()
    else:
        answer = await anyio.to_thread.run_sync(method)
    return await answer if inspect.isawaitable(answer) else answer


def is_async(method: Callable[..., object]) -> bool:
    function = method.func if isinstance(method, partial) else method
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


async def run(
    connector: Connector,
    task: TaskRequest,
    *,
    poll_interval_s: float = 1.0,
    timeout_s: float | None = None,
    max_failed_looks: int = 5,
    on_look: Callable[[Resource], None] | None = None,
) -> Resource:
    """Starts the task, looks at it until it is over, and answers with the last look.

    When the run is cancelled (Ctrl-C under ``anyio.run``, the end of a task group) or takes too long, the
    job is deleted first.

    Args:
        poll_interval_s: Between two looks, seconds.
        timeout_s: Of the whole, seconds; ``None`` sets no limit.
        max_failed_looks: Looks in a row that may fail with ``TransientError``; the next one ends the run.
        on_look: Given each answer of the connector.

    Returns:
        A terminal one; a failed task is no error here.

    Raises:
        TimeoutError: the time is over; the job was deleted.
        PermanentError: the connector's answer is nonsense.
        PropfanError: whatever the connector raises.
    """
    resource: Resource | None = None
    with anyio.move_on_after(timeout_s) as scope:
        if isinstance(connector, SyncConnector):
            resource = await call(partial(connector.do, task))
        elif isinstance(connector, AsyncConnector):
            resource = await _run_job(connector, task, poll_interval_s, max_failed_looks, on_look)
        else:
            raise PermanentError("", f"connector '{connector.name}': is neither asynchronous nor synchronous")
    if scope.cancelled_caught or resource is None:
        raise TimeoutError(f"task '{task.template.id.name}' took longer than {timeout_s:g} s; its job was deleted")
    wire.resource_message(connector.name, resource, task.template.interface if resource.outputs is not None else None)
    if not RemotePhase(resource.phase).is_terminal:
        raise PermanentError(
            "", f"connector '{connector.name}': do must end with a terminal phase, is {resource.phase!r}"
        )
    if isinstance(connector, SyncConnector) and on_look is not None:
        on_look(resource)
    return resource


async def _run_job(
    connector: AsyncConnector[object],
    task: TaskRequest,
    poll_interval_s: float,
    max_failed_looks: int,
    on_look: Callable[[Resource], None] | None,
) -> Resource:
    job = JobContext(task.output_prefix, task.connection)
    created = _Creation(connector, task)
    is_over = False
    try:
        await created.wait()
        # Another process would have to find the job by these bytes, so a meta that can not travel fails here too.
        encoded = resources.encode_meta(connector.name, created.meta)
        meta: object = resources.decode_meta(connector.name, connector.meta_type, encoded)
        failed_looks = 0
        while True:
            try:
                resource = await call(partial(connector.get, meta, job))
            except TransientError:
                failed_looks += 1
                if failed_looks > max_failed_looks:
                    raise
            else:
                failed_looks = 0
                wire.check_resource(connector.name, resource)
                if on_look is not None:
                    on_look(resource)
                if RemotePhase(resource.phase).is_terminal:
                    is_over = True
                    return resource
            await anyio.sleep(poll_interval_s)
    finally:
        if created.meta is not None and not is_over:
            with anyio.move_on_after(DELETE_PATIENCE_S, shield=True):
                await call(partial(connector.delete, created.meta, job))


class _Creation:
    """``create``, which a cancellation does not interrupt at once: a job without a meta could not be deleted."""

    def __init__(self, connector: AsyncConnector[object], task: TaskRequest) -> None:
        self.meta: object = None
        self._create: Final = partial(connector.create, task)
        self._scope: Final = anyio.CancelScope(shield=True)
        self._error: Exception | None = None
        self._done: Final = anyio.Event()

    async def wait(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._run)
            try:
                await self._done.wait()
            finally:
                self._scope.deadline = anyio.current_time() + CREATE_PATIENCE_S
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        try:
            with self._scope:
                self.meta = await call(self._create)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for, not as a group
            self._error = error
        finally:
            self._done.set()
