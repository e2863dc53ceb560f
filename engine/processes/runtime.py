"""Scheduler and kubelet of the embedded cluster: pods become local processes, processes become pod statuses."""

from __future__ import annotations

import enum
import fcntl
import os
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
import msgspec
import structlog

from propfan.engine.cluster import EVENT, POD, Cluster, ObjectMeta, ObservedObject, WatchEventType
from propfan.engine.processes import environment, pod_worker, pods, statuses
from propfan.engine.processes.pod_worker import BackOff, Node, PodWorker, Precondition, StatusPatch
from propfan.engine.processes.pods import Pod
from propfan.engine.processes.process import open_nursery
from propfan.engine.processes.refusals import left_out
from propfan.engine.processes.scheduler import Capacity, Placed, Scheduler, Unschedulable, effective_requests
from propfan.engine.processes.secrets import TaskSecrets
from propfan.pluginmachinery.errors import (
    RUNTIME_FAILURE,
    ApiError,
    ConfigError,
    ConflictError,
    DecodeError,
    ExpiredError,
    NotFoundError,
)

logger = structlog.get_logger(__name__)

RETRY_S: Final = 0.5
"""Pause after a call that the cluster failed, seconds."""

LAST_WORDS_S: Final = 10.0
"""How long stopping waits, after all is killed, for statuses to be written; seconds."""

_DEFAULT_BACK_OFF: Final = BackOff()


class OnExit(enum.Enum):
    """What happens to running pods when the runtime is left."""

    STOP = "stop"
    """They are ended, as by the shutdown of a node: ``Failed``, reason ``Terminated``."""
    DETACH = "detach"
    """They run on, and the next runtime of the data directory takes them over."""


class _Binding(msgspec.Struct, frozen=True):
    class Spec(msgspec.Struct, frozen=True, rename="camel"):
        node_name: str

    metadata: Precondition
    spec: Spec


class ProcessRuntime:
    """Runs the pods of a cluster on this machine. Enter it to start it, in the task that will leave it.

    Places pods without a node on ``node_name`` and runs those that are placed there; other nodes'
    pods are none of its business. Node selectors, affinity and tolerations are not looked at: there
    is one node. Linux 5.4 or newer only.

    Args:
        data_dir: Logs, scratch directories and launch records; one runtime at a time may use it.
        capacity: What pods may request together; the machine's own by default.
        on_exit: Whether pods are stopped or left running.
        stop_grace_s: Longest time that stopping gives a pod, seconds.
        keep_work: Whether working folders outlive their pods: a file that a task names as its output may be there.
        inherited: Names of the variables that containers take over from this process.
        secrets: For pods that ask for some; without it they go without.
        now: The wall clock, in UTC.

    Attributes:
        stop_grace_s: As given; may be changed at any time before the runtime is left.

    Raises:
        ConfigError: on entering; the directory is in use, the system has no pidfds, a capacity is no quantity.
    """

    def __init__(
        self,
        cluster: Cluster,
        *,
        data_dir: Path,
        capacity: Capacity | None = None,
        node_name: str = "local",
        on_exit: OnExit = OnExit.STOP,
        stop_grace_s: float = 30.0,
        keep_work: bool = False,
        back_off: BackOff = _DEFAULT_BACK_OFF,
        inherited: Sequence[str] = environment.INHERITED,
        secrets: TaskSecrets | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cluster = cluster
        self._data_dir = data_dir.absolute()
        self._capacity = capacity or Capacity()
        self._node_name = node_name
        self._on_exit = on_exit
        self.stop_grace_s = stop_grace_s
        self._keep_work = keep_work
        self._back_off = back_off
        self._inherited = inherited
        self._secrets = secrets
        self._now = now
        self._pods: dict[str, Pod] = {}
        self._workers: dict[str, PodWorker] = {}
        self._finished: set[str] = set()
        """Bound pods that nothing will run for any more."""
        self._waiting_owners: set[str] = set()
        self._said: dict[str, str] = {}
        """Why a pod is not placed, as its status says it."""
        self._wake = anyio.Event()
        self._idle = anyio.Event()
        self._leaving = anyio.Event()
        self._is_stopping = False

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._running())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        _require_pidfd()
        for folder in ("pods", "logs"):
            (self._data_dir / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        self._scheduler = Scheduler(self._capacity.in_nanos(self._data_dir))
        with _locked(self._data_dir / "lock"):
            async with anyio.create_task_group() as tasks:
                await tasks.start(self._serve)
                try:
                    yield
                finally:
                    self._leaving.set()

    async def _serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """All that runs. Once started it heeds no cancellation from outside: it is told to leave, and tidies up."""
        with anyio.CancelScope() as scope:
            async with open_nursery(self._data_dir) as nursery, anyio.create_task_group() as tasks:
                self._tasks = tasks
                self._node = Node(
                    self._cluster,
                    nursery,
                    self._data_dir,
                    environment.inherited(self._inherited),
                    self._back_off,
                    self._scheduler.allocatable,
                    self._now,
                    self._secrets,
                )
                await tasks.start(self._follow)
                tasks.start_soon(self._schedule)
                scope.shield = True
                task_status.started()
                await self._leaving.wait()
                if self._on_exit is OnExit.STOP:
                    await self._stop_all()
                tasks.cancel_scope.cancel()

    async def _stop_all(self) -> None:
        self._is_stopping = True
        for worker in self._workers.values():
            worker.shut_down(self.stop_grace_s)
        with anyio.move_on_after(self.stop_grace_s + LAST_WORDS_S):
            while self._workers:
                self._idle = anyio.Event()
                await self._idle.wait()

    def hurry(self) -> None:
        """Leaving gives pods no time to end by themselves from now on."""
        self.stop_grace_s = 0.0
        if self._is_stopping:
            for worker in self._workers.values():
                worker.shut_down(0.0)

    # Following the pods

    async def _follow(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Lists, then watches; begins anew whenever the cluster loses the thread."""
        while True:
            try:
                version = await self._list()
                task_status.started()
                task_status = anyio.TASK_STATUS_IGNORED
                while True:
                    version = await self._watch(version)
            except ExpiredError:
                continue
            except ApiError as error:
                logger.warning("pods can not be followed, trying again", error=str(error))
                await anyio.sleep(max(RETRY_S, error.retry_after_s))

    async def _list(self) -> str:
        seen: set[str] = set()
        token = version = ""
        while True:
            page = await self._cluster.list(POD, continue_token=token)
            version = version or page.resource_version
            for observed in page.items:
                seen.add(observed.metadata.uid)
                self._observe(observed)
            if not (token := page.continue_token):
                break
        for uid in set(self._pods) - seen:
            self._forget(uid)
        known = {*self._pods, *self._workers}
        for directory in (self._data_dir / "pods").iterdir():
            if directory.name not in known:
                self._tasks.start_soon(self._clear, directory)
        return version

    async def _watch(self, version: str) -> str:
        async with self._cluster.watch(POD, resource_version=version) as batches:
            async for batch in batches:
                for event in batch:
                    version = event.object.metadata.resource_version
                    if event.type is WatchEventType.DELETED:
                        self._forget(event.object.metadata.uid)
                    elif event.type is not WatchEventType.BOOKMARK:
                        self._observe(event.object)
        return version

    def _observe(self, observed: ObservedObject) -> None:
        uid = observed.metadata.uid
        try:
            pod = pods.decode(observed)
            requests = {} if uid in self._scheduler else effective_requests(pod)
        except (DecodeError, ValueError) as error:
            if uid not in self._finished:
                self._finished.add(uid)
                self._tasks.start_soon(self._fail, observed.metadata, "InvalidPod", str(error))
            return
        self._pods[uid] = pod
        if not pod.spec.node_name:
            if not pod.is_deleted and not pod.spec.scheduling_gates:
                self._scheduler.add(uid, requests)
                self._wake.set()
        elif pod.spec.node_name != self._node_name:
            self._scheduler.remove(uid)
        elif (worker := self._workers.get(uid)) is not None:
            worker.update(pod)
        elif uid in self._finished or pod.status.is_terminal:
            self._finished.add(uid)
            if pod.is_deleted and pod.metadata.deletion_grace_period_seconds:
                self._tasks.start_soon(pod_worker.delete, self._cluster, pod)
        elif not self._is_stopping:
            self._scheduler.assume(uid, requests)
            if any(owner.uid in self._waiting_owners for owner in pod.metadata.owner_references):
                self._lend_or_reclaim(uid, is_waiting=True)
            self._workers[uid] = PodWorker(self._node, pod)
            self._tasks.start_soon(self._work, self._workers[uid])

    def set_waiting(self, owner_uid: str, *, is_waiting: bool) -> None:
        """Whether the pods of an owner only wait for other pods: these then get what they hold."""
        if is_waiting == (owner_uid in self._waiting_owners):
            return
        if is_waiting:
            self._waiting_owners.add(owner_uid)
        else:
            self._waiting_owners.discard(owner_uid)
        for uid, pod in self._pods.items():
            if any(owner.uid == owner_uid for owner in pod.metadata.owner_references):
                self._lend_or_reclaim(uid, is_waiting=is_waiting)

    def _lend_or_reclaim(self, uid: str, *, is_waiting: bool) -> None:
        if not is_waiting:
            self._scheduler.reclaim(uid)
        elif self._scheduler.lend(uid):
            self._wake.set()

    async def _clear(self, directory: Path) -> None:
        await pod_worker.clear(directory, keep_work=self._keep_work)

    def _forget(self, uid: str) -> None:
        """The object is gone for good."""
        self._pods.pop(uid, None)
        self._said.pop(uid, None)
        if (worker := self._workers.get(uid)) is not None:
            worker.vanish()
        else:
            self._finished.discard(uid)
            if self._node.pod_dir(uid).exists():
                self._tasks.start_soon(self._clear, self._node.pod_dir(uid))
            if self._scheduler.remove(uid):
                self._wake.set()

    async def _work(self, worker: PodWorker) -> None:
        pod = worker.pod
        if pod.status.start_time is None:
            for what in left_out(pod):
                await self._warn(pod, "NotProvided", f"{what}: not provided to local processes, and left out")
        try:
            await worker.run()
        except Exception as error:
            logger.exception("pod given up", pod=pod.key)
            await pod_worker.end_processes(self._node.pod_dir(pod.uid))
            await self._fail(pod.metadata, RUNTIME_FAILURE, f"{type(error).__name__}: {error}")
        del self._workers[pod.uid]
        self._scheduler.remove(pod.uid)
        self._wake.set()
        self._idle.set()
        if pod.uid not in self._pods:  # vanished meanwhile
            await self._clear(self._node.pod_dir(pod.uid))
            return
        self._finished.add(pod.uid)
        if worker.pod.is_deleted:
            await self._clear(self._node.pod_dir(pod.uid))
            await pod_worker.delete(self._cluster, worker.pod)

    # Scheduling

    async def _schedule(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            if self._is_stopping:
                continue
            async with anyio.create_task_group() as round_:
                for decision in self._scheduler.place():
                    pod = self._pods[decision.uid]
                    if isinstance(decision, Placed):
                        round_.start_soon(self._bind, pod)
                    elif self._said.get(pod.uid) != decision.message:
                        round_.start_soon(self._say_unschedulable, pod, decision)

    async def _bind(self, pod: Pod) -> None:
        binding = _Binding(Precondition(pod.uid), _Binding.Spec(self._node_name))
        try:
            bound = await self._cluster.patch(POD, pod.metadata.namespace, pod.metadata.name, binding)
        except NotFoundError:
            self._forget(pod.uid)
        except ApiError as error:
            logger.warning("pod not bound, trying again", pod=pod.key, error=str(error))
            self._scheduler.give_back(pod.uid)
            self._tasks.start_soon(self._wake_later)
        else:
            self._said.pop(pod.uid, None)
            known = self._pods.get(pod.uid)
            if known is not None and not known.spec.node_name:  # else the watch was faster, and may know more
                self._observe(bound)

    async def _say_unschedulable(self, pod: Pod, decision: Unschedulable) -> None:
        status = statuses.unschedulable(pod.status, decision.message, self._now().replace(microsecond=0))
        patch = StatusPatch(Precondition(pod.uid), status)
        try:
            await self._cluster.patch(POD, pod.metadata.namespace, pod.metadata.name, patch, subresource="status")
        except NotFoundError:
            self._forget(pod.uid)
        except ApiError as error:
            logger.warning("pod status not written, trying again", pod=pod.key, error=str(error))
            self._tasks.start_soon(self._wake_later)
        else:
            self._said[pod.uid] = decision.message

    async def _wake_later(self) -> None:
        await anyio.sleep(RETRY_S)
        self._wake.set()

    # Saying things

    async def _fail(self, metadata: ObjectMeta, reason: str, problem: str) -> None:
        """Ends a pod that has no worker: one that no API server would have let in, or whose worker broke."""
        logger.warning("pod failed", pod=f"{metadata.namespace}/{metadata.name}", reason=reason, problem=problem)
        patch = StatusPatch(Precondition(metadata.uid), statuses.PodStatus("Failed", reason=reason, message=problem))
        while True:
            try:
                await self._cluster.patch(POD, metadata.namespace, metadata.name, patch, subresource="status")
            except (NotFoundError, ConflictError):
                return
            except ApiError as error:
                logger.warning("pod status not written, trying again", error=str(error))
                await anyio.sleep(max(RETRY_S, error.retry_after_s))
            else:
                return

    async def _warn(self, pod: Pod, reason: str, note: str) -> None:
        """An event of the pod. It informs people; that it could not be written is only logged."""
        logger.warning("left out", pod=pod.key, problem=note)
        now = self._now()
        event = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {
                "namespace": pod.metadata.namespace,
                "name": f"{pod.metadata.name}.{int(now.timestamp() * 1e6):x}",
            },
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "reportingController": "propfan.dev/process-runtime",
            "reportingInstance": self._node_name,
            "action": "Starting",
            "reason": reason,
            "type": "Warning",
            "note": note[:1024],
            "regarding": {
                "apiVersion": "v1",
                "kind": "Pod",
                "namespace": pod.metadata.namespace,
                "name": pod.metadata.name,
                "uid": pod.uid,
            },
        }
        try:
            await self._cluster.create(EVENT, msgspec.json.encode(event))
        except ApiError as error:
            logger.warning("event not written", pod=pod.key, error=str(error))


def _require_pidfd() -> None:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise ConfigError(
            "", f"the process runtime needs Linux 5.4 with pidfds, this is {platform.platform()}"
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file; the kernel lets it go when this process ends, however it ends."""
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError("data_dir", f"{path.parent} is in use by another process runtime") from error
        yield
