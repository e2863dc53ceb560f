"""The life of one pod on this node: init containers, sidecars, containers, restarts, its end and its status."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import anyio
import anyio.abc
import msgspec
import structlog

from propfan._speedups import quantities
from propfan.engine.cluster import POD, Cluster
from propfan.engine.processes import copilots, environment, logs, statuses, volumes
from propfan.engine.processes.pods import Container, Pod
from propfan.engine.processes.process import ContainerProcess, Exit, Launch, LaunchError, Nursery, find, unrecorded
from propfan.engine.processes.refusals import CREATE_CONTAINER_ERROR, RefusedError, refusal_of
from propfan.engine.processes.secrets import TaskSecrets, inject
from propfan.engine.processes.statuses import ContainerStatus, PodStatus, State, Terminated, Verdict, Waiting
from propfan.pluginmachinery.errors import ENGINE_STOPPED, ApiError, ConflictError, InvalidError, NotFoundError

logger = structlog.get_logger(__name__)

DEADLINE_EXCEEDED = Verdict("DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
ENGINE_LEFT = Verdict(ENGINE_STOPPED, "The engine stopped its processes because it was leaving.")
"""What a kubelet says when its node is shut down, with a reason of our own: nobody is to be charged."""


CREATE_RETRY_S: Final = 1.0
MAX_CREATE_RETRY_S: Final = 30.0
"""Pauses after a container could not be created, seconds: from the one to the other, doubling."""


class BackOff(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a container that ended waits for its next start: nothing, then ``initial_s``, then twice as long.

    The kubelet's values; a container that ran for ``reset_after_s`` begins anew.
    """

    initial_s: float = 10.0
    maximum_s: float = 300.0
    reset_after_s: float = 600.0


class Node(msgspec.Struct, frozen=True):
    """What all pods of the machine share."""

    cluster: Cluster
    nursery: Nursery
    data_dir: Path
    inherited: Mapping[str, str]
    back_off: BackOff
    allocatable: Callable[[str], int]
    now: Callable[[], datetime]
    secrets: TaskSecrets | None = None

    def pod_dir(self, uid: str) -> Path:
        return self.data_dir / "pods" / uid


WORK: Final = "work"
"""Folder in a pod's directory that its containers work in."""


class Precondition(msgspec.Struct, frozen=True):
    """Makes a patch of another object of the same name an invalid one."""

    uid: str


class StatusPatch(msgspec.Struct, frozen=True):
    metadata: Precondition
    status: PodStatus


class PodWorker:
    """Runs a bound pod until all its containers have ended, or takes over where an earlier engine stopped.

    Each start of a container is a launch directory ``<pod dir>/launches/<container>/<restart>``;
    what it holds, and not the pod's status, says whether that start has happened.
    """

    def __init__(self, node: Node, pod: Pod) -> None:
        self._node = node
        self._pod = pod
        self._log = logger.bind(pod=pod.key)
        self._dir = node.pod_dir(pod.uid)
        self._start_time = pod.status.start_time or node.now()
        known = {
            s.name: s for s in (*(pod.status.init_container_statuses or ()), *(pod.status.container_statuses or ()))
        }
        reason = statuses.POD_INITIALIZING if pod.init_containers else statuses.CONTAINER_CREATING
        self._statuses = {
            c.name: known.get(c.name) or ContainerStatus(c.name, State(waiting=Waiting(reason)), image=c.image)
            for c in pod.all_containers
        }
        self._known = known
        self._written = pod.status
        self._verdict: Verdict | None = None
        self._vanished = False
        self._stopping = anyio.Event()
        self._sidecars_stopping = anyio.Event()
        self._kill_at = float("inf")
        self._hurry = anyio.Event()
        self._changed = anyio.Event()
        self._active = 0
        """Containers that run or wait for their next start."""
        self._over = False

    @property
    def pod(self) -> Pod:
        return self._pod

    def update(self, pod: Pod) -> None:
        """A later version of the pod: only its deletion matters here."""
        self._pod = pod
        if pod.is_deleted:
            grace_s = pod.metadata.deletion_grace_period_seconds
            self._stop(pod.spec.grace_period_s if grace_s is None else grace_s)

    def vanish(self) -> None:
        """The object is gone: so shall be its processes, and nobody is told."""
        self._vanished = True
        self._stop(0)

    def shut_down(self, grace_s: float) -> None:
        """The node goes down."""
        self._verdict = self._verdict or ENGINE_LEFT
        self._stop(min(grace_s, self._pod.spec.grace_period_s))

    def _stop(self, grace_s: float) -> None:
        """Repeating it can shorten the grace period, never lengthen it."""
        kill_at = anyio.current_time() + grace_s
        if kill_at < self._kill_at:
            self._kill_at = kill_at
            self._hurry.set()
            self._hurry = anyio.Event()
        self._stopping.set()

    async def run(self) -> None:
        """Returns when nothing runs any more and the status says so. Cancelled, it leaves the processes alone."""
        if self._pod.is_deleted:
            self.update(self._pod)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write_statuses)
            async with anyio.create_task_group() as watching:
                if self._pod.spec.active_deadline_seconds is not None:
                    watching.start_soon(self._keep_deadline, self._pod.spec.active_deadline_seconds)
                await self._run_containers()
                watching.cancel_scope.cancel()
            self._over = True
            self._changed.set()

    async def _keep_deadline(self, seconds: int) -> None:
        left = self._start_time + timedelta(seconds=seconds) - self._node.now()
        await anyio.sleep(max(0.0, left.total_seconds()))
        self._verdict = self._verdict or DEADLINE_EXCEEDED
        self._stop(self._pod.spec.grace_period_s)

    async def _run_containers(self) -> None:
        if self._refused():
            self._changed.set()
            await self._stopping.wait()
            return
        spec = self._pod.spec
        async with anyio.create_task_group() as sidecars:
            if await self._run_init_containers(sidecars):
                for container in spec.containers:
                    if self._statuses[container.name].state.waiting is not None:
                        self._become(container, State(waiting=Waiting(statuses.CONTAINER_CREATING)))
                async with anyio.create_task_group() as regular:
                    for container in spec.containers:
                        regular.start_soon(self._run, container, spec.restart_policy, self._stopping)
            if not self._stopping.is_set():
                self._kill_at = anyio.current_time() + spec.grace_period_s
            self._sidecars_stopping.set()

    def _refused(self) -> bool:
        """Whether a container can never run here: then none is started. What runs already has been found good."""
        if (self._dir / "launches").exists():
            return False
        refusals = {c.name: refusal_of(self._pod, c) for c in self._pod.all_containers}
        for container in self._pod.all_containers:
            if message := refusals[container.name]:
                refused = RefusedError(message)
                self._become(container, State(waiting=Waiting(refused.reason, message)))
                self._log.warning("pod refused", container=container.name, problem=message)
        return any(refusals.values())

    async def _run_init_containers(self, sidecars: anyio.abc.TaskGroup) -> bool:
        """Whether it is the containers' turn. When the pod is to stop, what runs is found and nothing is started."""
        policy = "Never" if self._pod.spec.restart_policy == "Never" else "OnFailure"
        for container in self._pod.init_containers:
            if container.is_sidecar:
                await sidecars.start(self._run_sidecar, container)
            elif not await self._run(container, policy, self._stopping):
                return False
        return True

    async def _run_sidecar(self, container: Container, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        await self._run(container, "Always", self._sidecars_stopping, task_status)

    async def _run(
        self,
        container: Container,
        policy: str,
        enough: anyio.Event,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> bool:
        """Runs a container as often as its policy wants, or until it is enough. Whether it ended well."""
        self._active += 1
        try:
            return await self._run_repeatedly(container, policy, enough, task_status)
        finally:
            self._active -= 1

    async def _run_repeatedly(
        self, container: Container, policy: str, enough: anyio.Event, task_status: anyio.abc.TaskStatus[None]
    ) -> bool:
        restart = self._last_restart(container)
        pauses = 0
        until = self._stopping  # before its first start a sidecar holds up the pod, also in its end
        while True:
            process = await self._start(container, restart, until)
            if process is None:
                task_status.started()
                return False
            self._become_running(container, process, restart)
            task_status.started()
            task_status = anyio.TASK_STATUS_IGNORED
            until = enough
            try:
                ended = await self._outlast(process, enough)
            finally:
                process.close()
            terminated = self._terminated(container, restart, process, ended)
            self._become(
                container, State(terminated=terminated), ready=ended.exit_code == 0 and not self._is_regular(container)
            )
            if enough.is_set() or policy == "Never" or (policy == "OnFailure" and ended.exit_code == 0):
                if self._active > 1:  # else the next container's start or the pod's end says it too
                    self._changed.set()
                return ended.exit_code == 0
            if ended.finished_at - process.record.started_at >= self._node.back_off.reset_after_s:
                pauses = 0
            if not await self._pause(container, terminated, pauses, enough):
                return False
            pauses += 1
            restart += 1

    def _is_regular(self, container: Container) -> bool:
        return any(container.name == c.name for c in self._pod.spec.containers)

    def _last_restart(self, container: Container) -> int:
        folder = self._dir / "launches" / container.name
        launched = [int(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
        known = self._known.get(container.name)
        return max(launched, default=known.restart_count if known is not None else 0)

    async def _pause(self, container: Container, terminated: Terminated, pauses: int, enough: anyio.Event) -> bool:
        """Waits out the back-off; false when it is enough meanwhile."""
        if not pauses:
            return True
        delay_s = min(self._node.back_off.initial_s * 2 ** (pauses - 1), self._node.back_off.maximum_s)
        message = (
            f"back-off {delay_s:g}s restarting failed container={container.name} "
            f"pod={self._pod.metadata.name}_{self._pod.metadata.namespace}({self._pod.uid})"
        )
        waiting = State(waiting=Waiting(statuses.CRASH_LOOP_BACK_OFF, message))
        self._become(container, waiting, last_state=State(terminated=terminated))
        self._changed.set()
        with anyio.move_on_after(delay_s):
            await enough.wait()
        if enough.is_set():
            self._become(container, State(terminated=terminated))
        return not enough.is_set()

    async def _start(self, container: Container, restart: int, enough: anyio.Event) -> ContainerProcess | None:
        """The process of this restart: found, or started. ``None`` when it is enough before it could be."""
        directory = self._dir / "launches" / container.name / str(restart)
        delay_s = CREATE_RETRY_S
        while not enough.is_set():
            try:
                if (process := find(directory) or self._lost(container, restart, directory)) is not None:
                    return process
                launch = await self._launch(container, restart)
                return await self._node.nursery.start(directory, launch)
            except RefusedError as error:
                waiting = Waiting(error.reason, error.message)
            except (LaunchError, OSError) as error:
                waiting = Waiting(CREATE_CONTAINER_ERROR, str(error))
            self._become(container, State(waiting=waiting))
            self._changed.set()
            with anyio.move_on_after(delay_s):
                await enough.wait()
            delay_s = min(delay_s * 2, MAX_CREATE_RETRY_S)
        return find(directory) or self._lost(container, restart, directory)

    def _lost(self, container: Container, restart: int, directory: Path) -> ContainerProcess | None:
        """A process that the status knows and the disk does not: it has ended, nobody knows how, and is not repeated."""
        known = self._known.get(container.name)
        if known is None or not known.container_id or known.restart_count != restart:
            return None
        return unrecorded(directory, known.container_id, self._start_time)

    async def _launch(self, container: Container, restart: int) -> Launch:
        variables = await environment.resolve(
            self._node.cluster,
            self._pod,
            container,
            base=self._node.inherited,
            allocatable=self._node.allocatable,
        )
        injected: Mapping[str, str] = {}
        if self._node.secrets is not None:
            injected = await inject(self._node.secrets, self._pod, self._dir / "secrets")
        work = self._dir / WORK
        work.mkdir(parents=True, exist_ok=True)
        log = self._log_path(container, restart)
        logs.prepare(log)
        limit = container.resources.effective_limits.get("memory")
        try:
            limit_bytes = 0 if limit is None else -(-quantities.nanos(limit) // 10**9)
        except ValueError as error:
            raise RefusedError(f"resources.limits.memory: {limit!r}: {error}") from error
        launch = Launch(
            variables.command_line(container),
            {**variables.whole, **injected},
            container.working_dir or str(work),
            str(log),
            limit_bytes,
        )
        return await volumes.provide(copilots.own(launch, self._pod, self._dir), self._pod, container, self._dir)

    def _log_path(self, container: Container, restart: int) -> Path:
        metadata = self._pod.metadata
        return logs.log_path(self._node.data_dir, metadata.namespace, metadata.name, container.name, restart)

    async def _outlast(self, process: ContainerProcess, enough: anyio.Event) -> Exit:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, process, enough)
            ended = await process.wait()
            tasks.cancel_scope.cancel()
        return ended

    async def _end(self, process: ContainerProcess, enough: anyio.Event) -> None:
        """SIGTERM when it is enough, SIGKILL when the grace period is over."""
        await enough.wait()
        process.terminate()
        while (left_s := self._kill_at - anyio.current_time()) > 0:
            with anyio.move_on_after(left_s):
                await self._hurry.wait()
        process.kill()

    def _terminated(self, container: Container, restart: int, process: ContainerProcess, ended: Exit) -> Terminated:
        message = ended.failure
        if ended.is_lost:
            reason = "ContainerStatusUnknown"
            message = "The container could not be located when the pod was looked after again"
        elif ended.failure:
            reason = "StartError"
        elif ended.out_of_memory:
            reason = "OOMKilled"
        else:
            reason = "Error" if ended.exit_code else "Completed"
        if ended.exit_code and not message and container.termination_message_policy == "FallbackToLogsOnError":
            message = logs.tail(
                self._log_path(container, restart),
                limit_bytes=logs.TERMINATION_MESSAGE_BYTES,
                limit_lines=logs.TERMINATION_MESSAGE_LINES,
            )
        return Terminated(
            ended.exit_code,
            reason,
            ended.signal,
            message,
            process.started_at.replace(microsecond=0),
            datetime.fromtimestamp(int(ended.finished_at), UTC),
            process.record.container_id,
        )

    def _become_running(self, container: Container, process: ContainerProcess, restart: int) -> None:
        old = self._statuses[container.name]
        ended = old.state.terminated
        running = statuses.Running(process.started_at.replace(microsecond=0))
        self._statuses[container.name] = msgspec.structs.replace(
            old,
            state=State(running=running),
            last_state=State(terminated=ended) if ended is not None else old.last_state,
            restart_count=restart,
            container_id=process.record.container_id,
            ready=True,
            started=True,
        )
        self._changed.set()

    def _become(
        self, container: Container, state: State, *, last_state: State | None = None, ready: bool = False
    ) -> None:
        old = self._statuses[container.name]
        self._statuses[container.name] = msgspec.structs.replace(
            old,
            state=state,
            last_state=old.last_state if last_state is None else last_state,
            ready=ready,
            started=False,
        )

    def _status(self) -> PodStatus:
        names = [c.name for c in self._pod.init_containers]
        containers = statuses.Containers(
            [self._statuses[name] for name in names],
            [self._statuses[c.name] for c in self._pod.spec.containers],
            frozenset(c.name for c in self._pod.init_containers if c.is_sidecar),
            "Never" if self._stopping.is_set() else self._pod.spec.restart_policy,
        )
        return statuses.summarize(
            containers,
            self._written,
            self._start_time.replace(microsecond=0),
            self._node.now().replace(microsecond=0),
            is_over=self._over,
            verdict=self._verdict,
        )

    async def _write_statuses(self) -> None:
        """One write at a time, always of the latest status; what changes meanwhile goes into the next."""
        while not self._over:
            await self._changed.wait()
            self._changed = anyio.Event()
            # A verdict is told together with what it did, or its victims would seem to have failed by themselves.
            if self._verdict is None or self._over:
                await self._write_status()

    async def _write_status(self) -> None:
        delay_s = 0.05
        while not self._vanished and (status := self._status()) != self._written:
            metadata = self._pod.metadata
            try:
                await self._node.cluster.patch(
                    POD,
                    metadata.namespace,
                    metadata.name,
                    StatusPatch(Precondition(metadata.uid), status),
                    subresource="status",
                )
            except NotFoundError:
                self.vanish()
            except ApiError as error:
                self._log.warning("pod status not written, trying again", error=str(error))
                await anyio.sleep(max(delay_s, error.retry_after_s))
                delay_s = min(delay_s * 2, 10.0)
                if isinstance(error, (ConflictError, InvalidError)) and await self._is_replaced():
                    self.vanish()
            else:
                self._written = status

    async def _is_replaced(self) -> bool:
        """Whether the name belongs to another pod now, or to none."""
        try:
            found = await self._node.cluster.get(POD, self._pod.metadata.namespace, self._pod.metadata.name)
        except NotFoundError:
            return True
        except ApiError:
            return False
        return found.metadata.uid != self._pod.uid


async def delete(cluster: Cluster, pod: Pod) -> None:
    """Lets the object of a deleted pod go, now that its processes have ended."""
    metadata = pod.metadata
    delay_s = 0.05
    while True:
        try:
            await cluster.delete(POD, metadata.namespace, metadata.name, uid=metadata.uid, grace_period_s=0)
        except (NotFoundError, ConflictError):
            return
        except ApiError as error:
            logger.warning("pod not deleted, trying again", pod=pod.key, error=str(error))
            await anyio.sleep(max(delay_s, error.retry_after_s))
            delay_s = min(delay_s * 2, 10.0)
        else:
            return


async def end_processes(directory: Path) -> None:
    """Kills what still runs of a pod that nobody looks after."""
    records = await anyio.to_thread.run_sync(lambda: list(directory.glob("launches/*/*/process.json")))
    running = [process for record in records if (process := find(record.parent)) is not None]
    for process in running:
        process.kill()
    for process in running:
        await process.wait()
        process.close()


async def clear(directory: Path, *, keep_work: bool = False) -> None:
    """Removes what a pod that is gone left behind; with ``keep_work`` all but its working folder."""
    await end_processes(directory)
    await anyio.to_thread.run_sync(_remove, directory, keep_work)


def _remove(directory: Path, keep_work: bool) -> None:  # noqa: FBT001  # only run_sync calls it
    left = list(directory.iterdir()) if keep_work and directory.exists() else [directory]
    for path in left:
        if not (keep_work and path.name == WORK):
            shutil.rmtree(path, ignore_errors=True)
