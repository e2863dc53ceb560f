"""A connector in a thread with an event loop of its own, so that one that blocks or dies harms no other.

Calls go from the *home* loop, where gRPC lives, to the connector's loop and their answers come back; neither
loop ever waits for the other. A call is over when the connector's code has ended, which for a thread that
nobody can interrupt may be long after its caller gave up: until then it keeps its slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import FrameType
from typing import Any, Final, Generic, Self, TypeVar

import anyio
import anyio.to_thread
import structlog
from anyio.streams.memory import MemoryObjectSendStream

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.loading import connector_setup
from propfan.pluginmachinery.connector import Connector, local
from propfan.pluginmachinery.connector.registry import ConnectorOffer
from propfan.pluginmachinery.errors import ConnectorError, PropfanError

logger = structlog.get_logger(__name__)

A = TypeVar("A")

_CLOSE_PATIENCE_S: Final = 5.0
"""For a connector to close what it has open, and for its thread to end after that."""

_BLOCK_SIGN_S: Final = 0.2
"""A loop that owes an answer for so long is doing something else."""

_MIN_THREADS: Final = 40
"""Of a connector's plain methods and whatever else it runs in threads; anyio's own default."""


class HostStoppedError(PropfanError):
    """The connector's thread has ended, or is ending."""


class StreamTimeoutError(PropfanError):
    """An item of a stream did not come in time."""


class ConnectorHost:
    """Made by ``start``, which waits for the connector; used on the loop that it was started on."""

    def __init__(self, offer: ConnectorOffer, config: ConnectorServiceConfig, environ: Mapping[str, str]) -> None:
        self.offer: Final = offer
        self.connector: Connector
        self.slots: anyio.Semaphore
        self._config: Final = config
        self._environ: Final = environ
        self._home: Final = asyncio.get_running_loop()
        self._loop: asyncio.AbstractEventLoop
        self._submitted: MemoryObjectSendStream[_Call[Any]]
        self._calls: Final[set[_Call[Any]]] = set()
        self._made: Final[asyncio.Future[Connector | ConnectorError]] = self._home.create_future()
        self._ended: Final = anyio.Event()
        self._thread: Final = threading.Thread(target=self._run_thread, name=f"connector {offer.where}", daemon=True)
        self._asked_at: float | None = None
        self._is_told_blocked = False
        self._is_given_up = False

    @classmethod
    async def start(cls, offer: ConnectorOffer, config: ConnectorServiceConfig, environ: Mapping[str, str]) -> Self:
        """Makes the connector.

        Raises:
            ConnectorError: it can not be made, or not within ``load_timeout_s``.
        """
        host = cls(offer, config, environ)
        host._thread.start()
        try:
            with anyio.fail_after(config.load_timeout_s):
                made = await asyncio.shield(host._made)
        except TimeoutError:
            host._is_given_up = True
            where = host._where()
            problem = f"took longer than {config.load_timeout_s:g} s{where and f': it is at {where}'}"
            raise ConnectorError(offer.where, "load", problem) from None
        if isinstance(made, ConnectorError):
            raise made
        host.connector = made
        limit = config.limits.get(made.name)
        own = limit.max_concurrent_calls if limit is not None else None
        host.slots = anyio.Semaphore(own or made.max_concurrent_calls)
        return host

    @property
    def calls_in_flight(self) -> int:
        return len(self._calls)

    @property
    def is_alive(self) -> bool:
        return not self._ended.is_set()

    @property
    def blocked_for_s(self) -> float:
        """How long the connector's loop has not reacted; 0 when it does."""
        if self._asked_at is None:
            return 0.0
        waited_s = anyio.current_time() - self._asked_at
        return waited_s if waited_s >= _BLOCK_SIGN_S else 0.0

    async def call(self, function: Callable[[], Awaitable[A] | A]) -> A:
        """Runs a method of the connector on its loop, or in a thread of that loop.

        The caller holds one of ``slots``; it is given back when the method has ended, whoever waits for it.
        When the caller is cancelled, so is an async method.

        Raises:
            HostStoppedError: the connector's thread has ended.
            Exception: whatever the method raises.
        """
        call = self._submit(lambda: local.call(function))
        try:
            return await call.result()
        finally:
            self._give_up(call)

    async def stream(self, function: Callable[[], AsyncGenerator[A, None]], timeout_s: float) -> AsyncIterator[A]:
        """The items of an async generator of the connector, each made when the one before was taken.

        Raises:
            StreamTimeoutError: an item did not come within what is left of ``timeout_s``.
            HostStoppedError, Exception: as of ``call``.
        """
        give_up_at = anyio.current_time() + timeout_s
        send, receive = anyio.create_memory_object_stream[tuple[A, anyio.Event]](math.inf)

        def deliver(item: A, taken: anyio.Event) -> None:
            if receive.statistics().open_receive_streams:
                send.send_nowait((item, taken))

        async def pump() -> None:
            async with aclosing(function()) as items:
                async for item in items:
                    taken = anyio.Event()
                    self._at_home(deliver, item, taken)
                    await taken.wait()

        call = self._submit(pump)
        call.answer.add_done_callback(lambda _: send.close())
        try:
            while True:
                try:
                    with anyio.fail_after(give_up_at - anyio.current_time()):
                        item, taken = await receive.receive()
                except anyio.EndOfStream:
                    break
                except TimeoutError as error:
                    raise StreamTimeoutError(f"nothing within {timeout_s:g} s") from error
                yield item
                self._on_loop(taken.set)
            await call.result()
        finally:
            receive.close()
            send.close()
            self._give_up(call)

    def look(self) -> None:
        """Asks the connector's loop for a sign of life; called now and then."""
        if not self.is_alive:
            return
        if self._asked_at is None:
            self._asked_at = anyio.current_time()
            self._on_loop(self._answer_look)
        elif self.blocked_for_s >= self._config.block_warning_s and not self._is_told_blocked:
            self._is_told_blocked = True
            logger.warning("connector blocks its event loop", connector=self.connector.name, where=self._where())

    def explain_block(self) -> str:
        """What the loop does instead of reacting and what to do about it; empty when it reacts."""
        blocked_s = self.blocked_for_s
        if not blocked_s:
            return ""
        where = self._where() or "code that has no Python frame"
        way_out = "make that method a plain 'def', which runs in a thread, or await what blocks"
        return f"its event loop has not reacted for {blocked_s:.1f} s, it is at {where}; {way_out}"

    async def stop(self) -> None:
        """Cancels the calls that are left and ends the thread; a thread that does not end is left behind."""
        if self.is_alive and self._made.done():
            self._on_loop(self._submitted.close)
        with anyio.move_on_after(2 * _CLOSE_PATIENCE_S):
            await self._ended.wait()
        if self.is_alive:
            logger.warning("connector did not stop", connector=self.offer.where, where=self._where())

    def _on_loop(self, function: Callable[..., object], *args: object) -> None:
        """Runs it on the connector's loop, soon; nothing happens when that has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *args)

    def _at_home(self, function: Callable[..., object], *args: object) -> bool:
        """Runs it on the home loop, soon; false when that is over, and the service with it."""
        try:
            self._home.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def _answer_look(self) -> None:
        """On the connector's loop."""
        self._at_home(self._heard)

    def _heard(self) -> None:
        if self._is_told_blocked and self._asked_at is not None:
            after_s = round(anyio.current_time() - self._asked_at, 1)
            logger.info("connector reacts again", connector=self.connector.name, after_s=after_s)
        self._asked_at = None
        self._is_told_blocked = False

    def _submit(self, body: Callable[[], Awaitable[A]]) -> _Call[A]:
        call = _Call(self._home, body)
        if not self.is_alive:
            self.slots.release()
            raise HostStoppedError(f"connector '{self.connector.name}' has stopped")
        self._calls.add(call)
        self._on_loop(self._take, call)
        call.answer.add_done_callback(lambda _: self._forget(call))
        return call

    def _take(self, call: _Call[Any]) -> None:
        """On the connector's loop."""
        try:
            self._submitted.send_nowait(call)
        except anyio.ClosedResourceError:
            call.finish(None, HostStoppedError(f"connector '{self.connector.name}' is stopping"))

    def _forget(self, call: _Call[Any]) -> None:
        self._calls.discard(call)
        self.slots.release()

    def _give_up(self, call: _Call[Any]) -> None:
        if not call.answer.done() and self.is_alive:
            self._on_loop(call.cancel)

    def _run_thread(self) -> None:
        error: BaseException | None = None
        try:
            anyio.run(self._main, backend_options={"use_uvloop": sys.platform != "win32"})
        except BaseException as ended_by:  # noqa: BLE001 - told to whoever waits
            error = ended_by
        self._at_home(self._has_ended, error)

    async def _main(self) -> None:
        """On the connector's loop, from its begin to its end."""
        self._loop = asyncio.get_running_loop()
        async with connector_setup(self._config, self._environ) as setup:
            connector = self.offer.make(setup)
            limiter = anyio.to_thread.current_default_thread_limiter()
            limiter.total_tokens = max(_MIN_THREADS, connector.max_concurrent_calls)
            self._submitted, calls = anyio.create_memory_object_stream[_Call[Any]](math.inf)
            async with self._submitted, calls, anyio.create_task_group() as group:
                if not self._is_given_up and self._at_home(self._made.set_result, connector):
                    async for call in calls:
                        group.start_soon(call.run)
                group.cancel_scope.cancel()
            with anyio.move_on_after(_CLOSE_PATIENCE_S):
                await connector.close()

    def _has_ended(self, error: BaseException | None) -> None:
        """On the home loop."""
        self._ended.set()
        if not self._made.done():
            refused = (
                error if isinstance(error, ConnectorError) else ConnectorError(self.offer.where, "load", _told(error))
            )
            self._made.set_result(refused)
        elif error is not None:
            logger.error("connector's thread has ended", connector=self.connector.name, error=_told(error))
        for call in list(self._calls):
            call.settle(None, HostStoppedError(f"connector '{self.connector.name}' has stopped: {_told(error)}"))

    def _where(self) -> str:
        """``file.py:12 in create``: where the thread is, in the connector's own code if it is there."""
        frame: FrameType | None = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented
        if frame is None:
            return ""
        innermost, file = frame, ""
        if hasattr(self, "connector"):
            file = inspect.getsourcefile(type(self.connector)) or ""
        while frame is not None:
            if frame.f_code.co_filename == file:
                return _place(frame)
            frame = frame.f_back
        return _place(innermost)


class _Call(Generic[A]):
    """One call on its way: ``run`` and ``cancel`` on the connector's loop, the rest at home."""

    def __init__(self, home: asyncio.AbstractEventLoop, body: Callable[[], Awaitable[A]]) -> None:
        self.answer: Final[asyncio.Future[tuple[A | None, BaseException | None]]] = home.create_future()
        self._home: Final = home
        self._body: Final = body
        self._scope: Final = anyio.CancelScope()

    async def run(self) -> None:
        value: A | None = None
        error: BaseException | None = None
        with self._scope:
            try:
                value = await self._body()
            except (SystemExit, KeyboardInterrupt) as stop:
                error = RuntimeError(f"tried to end the process: {stop!r}")
            except anyio.get_cancelled_exc_class():
                error = HostStoppedError("the call was cancelled")
            except Exception as raised:  # noqa: BLE001 - raised again where it is waited for
                error = raised
        self.finish(value, error)

    def finish(self, value: A | None, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # nobody is left to be told
            self._home.call_soon_threadsafe(self.settle, value, error)

    def cancel(self) -> None:
        self._scope.cancel()

    def settle(self, value: A | None, error: BaseException | None) -> None:
        if not self.answer.done():
            self.answer.set_result((value, error))

    async def result(self) -> A:
        """What the body returned or raised. The answer itself is never cancelled: it tells when the body is over."""
        value, error = await asyncio.shield(self.answer)
        if error is not None:
            raise error
        return value  # type: ignore[return-value] # there is a value where there is no error


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error is not None else "its thread is over"
