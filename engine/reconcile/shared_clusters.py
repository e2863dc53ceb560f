"""Clusters that tasks share: who needs which, when they change, and their end once nobody does.

A cluster belongs to no task and to no replica, so several engines may use and tidy up the same ones. Whoever
takes one for a job first writes down that it is in use, which changes its resourceVersion. Whoever finds one
idle and without a living job condemns it, in a write that holds only for the resourceVersion that was looked
at, and deletes it then. So a cluster is either condemned before a job takes it, which the job then sees, or
taken before it is condemned, which then fails.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

import anyio
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import Cluster, ObservedObject, WatchEvent, WatchEventType
from propfan.engine.reconcile.live_task import LiveTask, TaskKey
from propfan.engine.reconcile.watches import Watcher
from propfan.pluginmachinery.entries import LoadedClusterPlugin
from propfan.pluginmachinery.errors import ApiError, ConflictError, KindNotServedError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import CLUSTER_LABEL, LAST_USED_ANNOTATION, last_used

logger = structlog.get_logger(__name__)

SHARED_LABEL: Final = "propfan.org/shared-by"
"""On every shared cluster: the id of the plugin whose tasks share it."""

CONDEMNED_ANNOTATION: Final = "propfan.org/condemned"
"""On a shared cluster that is about to be deleted: since when. It takes no job any more."""

_SILENT_SWEEPS: Final = 3
"""After so many sweeps without a sign of life from any engine a cluster may be called idle."""

ClusterKey = tuple[str, str]
"""Namespace and name."""

Poke = Callable[[LiveTask], None]


class SharedClusters:
    """The shared clusters of one plugin.

    Args:
        namespaces: Where they may be; everywhere when empty.
        sweep_s: Time between looks for idle ones.
    """

    def __init__(
        self,
        loaded: LoadedClusterPlugin,
        cluster: Cluster,
        clock: Clock,
        *,
        namespaces: Sequence[str] = (),
        sweep_s: float,
    ) -> None:
        self._plugin: Final = loaded.plugin
        self._id: Final = loaded.entry.id
        self._kind: Final = loaded.cluster_watched
        self._job_kind: Final = loaded.entry.watched
        self._cluster: Final = cluster
        self._clock: Final = clock
        self._namespaces: Final = tuple(namespaces) or ("",)
        self._sweep_s: Final = sweep_s
        self._patience: Final = timedelta(seconds=_SILENT_SWEEPS * sweep_s)
        self._labels: Final = {SHARED_LABEL: self._id}
        self._known: Final[dict[ClusterKey, ObservedObject]] = {}
        """As the watch showed them last."""
        self._users: Final[dict[ClusterKey, dict[TaskKey, LiveTask]]] = {}
        self._are_wanted: Final = anyio.Event()
        self._poke: Poke = _ignore

    async def run(self, poke: Poke) -> None:
        """Watches and tidies up until cancelled. Nothing is watched while there is no shared cluster.

        Args:
            poke: Called with a task whose cluster has become ready, or goes away.
        """
        self._poke = poke
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep_for_ever)
            await self._are_wanted.wait()
            for namespace in self._namespaces:
                watcher = Watcher(
                    self._cluster,
                    self._kind,
                    namespace=namespace,
                    labels=self._labels,
                    on_event=self._on_event,
                    on_listed=self._on_listed,
                )
                tasks.start_soon(watcher.run)

    # -- Who needs which ---------------------------------------------------------------------------

    def use(self, live: LiveTask, key: ClusterKey) -> None:
        """Until it is forgotten the task is poked with news of that cluster, which is kept from being called idle."""
        self._are_wanted.set()
        self._users.setdefault(key, {})[live.key] = live

    def forget(self, live: LiveTask) -> None:
        """The task needs no cluster any more."""
        for key in [key for key, users in self._users.items() if live.key in users]:
            del self._users[key][live.key]
            if not self._users[key]:
                del self._users[key]

    def known(self, key: ClusterKey) -> ObservedObject | None:
        """The cluster as the watch showed it last; ``None`` says nothing."""
        return self._known.get(key)

    async def is_lost(self, key: ClusterKey) -> bool:
        """Whether there is no such cluster (any more), or it goes away; believed only after a live read."""
        seen = self._known.get(key)
        if seen is not None and not is_going(seen):
            return False
        try:
            return is_going(await self._cluster.get(self._kind, *key))
        except NotFoundError:
            return True

    async def take(self, key: ClusterKey) -> ObservedObject:
        """Says that the cluster is in use; how it is then.

        Raises:
            NotFoundError: there is none.
        """
        patch = {"metadata": {"annotations": {LAST_USED_ANNOTATION: self._clock.now()}}}
        return await self._cluster.patch(self._kind, *key, patch)

    # -- What comes in -----------------------------------------------------------------------------

    def _on_event(self, event: WatchEvent) -> None:
        seen = event.object
        key = (seen.metadata.namespace, seen.metadata.name)
        before = self._known.get(key)
        if event.type is WatchEventType.DELETED:
            self._known.pop(key, None)
            self._tell(key)
            return
        self._known[key] = seen
        if before is None or is_going(seen) != is_going(before) or self._is_ready(seen) != self._is_ready(before):
            self._tell(key)

    def _on_listed(self, keys: frozenset[ClusterKey]) -> None:
        for key in [key for key in self._known if key not in keys]:
            del self._known[key]
            self._tell(key)

    def _is_ready(self, seen: ObservedObject) -> bool:
        try:
            return self._plugin.is_cluster_ready(seen)
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the watch goes on
            logger.warning("shared cluster can not be read", cluster=str(seen), error=str(error))
            return False

    def _tell(self, key: ClusterKey) -> None:
        for live in self._users_of(key):
            self._poke(live)

    def _users_of(self, key: ClusterKey) -> Sequence[LiveTask]:
        users = self._users.get(key, {})
        for live in [live for live in users.values() if live.is_dropped]:
            self.forget(live)
        return list(users.values())

    # -- Idle ones ---------------------------------------------------------------------------------

    async def _sweep_for_ever(self) -> None:
        while True:
            await anyio.sleep(self._sweep_s)
            try:
                await self.sweep()
            except KindNotServedError:
                logger.debug("there are no such clusters", kind=str(self._kind))
            except ApiError as error:
                logger.warning("shared clusters can not be listed", kind=str(self._kind), error=str(error))

    async def sweep(self) -> int:
        """Keeps what is needed here from being called idle, and deletes what nobody needs; how many that were.

        One that can not be looked at or deleted is left to the next sweep.

        Raises:
            ApiError: the clusters can not be listed.
        """
        for key in list(self._users):
            if self._users_of(key):
                await self._keep(key)
        ended = 0
        for namespace in self._namespaces:
            token = ""
            while True:
                page = await self._cluster.list(
                    self._kind, namespace=namespace, labels=self._labels, continue_token=token
                )
                for seen in page.items:
                    self._are_wanted.set()
                    ended += await self._look_after(seen)
                token = page.continue_token
                if not token:
                    break
        return ended

    async def _keep(self, key: ClusterKey) -> None:
        try:
            await self.take(key)
        except NotFoundError:
            return
        except ApiError as error:
            logger.warning("shared cluster can not be kept", cluster="/".join(key), error=str(error))

    async def _look_after(self, seen: ObservedObject) -> bool:
        """Whether it was deleted."""
        try:
            return seen.metadata.deletion_timestamp is None and self._may_go(seen) and await self._end(seen)
        except (NotFoundError, ConflictError):
            return False  # somebody was faster, or has begun to use it
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the other clusters are looked at
            logger.warning("shared cluster is left alone", cluster=str(seen), error=str(error))
            return False

    def _may_go(self, seen: ObservedObject) -> bool:
        meta = seen.metadata
        if CONDEMNED_ANNOTATION in meta.annotations:
            return True
        if self._users_of((meta.namespace, meta.name)):
            return False
        now, used = self._clock.now(), last_used(seen)
        return (used is None or now - used >= self._patience) and self._plugin.is_idle(seen, now)

    async def _end(self, listed: ObservedObject) -> bool:
        meta = listed.metadata
        seen = await self._cluster.get(self._kind, meta.namespace, meta.name)
        if seen.metadata.uid != meta.uid or not self._may_go(seen):
            return False
        if CONDEMNED_ANNOTATION not in seen.metadata.annotations:
            is_needed = await self._has_living_job(seen)
            annotation = LAST_USED_ANNOTATION if is_needed else CONDEMNED_ANNOTATION
            patch = {"metadata": {"annotations": {annotation: self._clock.now()}}}
            version = seen.metadata.resource_version
            await self._cluster.patch(self._kind, meta.namespace, meta.name, patch, resource_version=version)
            if is_needed:
                return False
        await self._cluster.delete(self._kind, meta.namespace, meta.name, uid=meta.uid)
        logger.info("idle cluster deleted", cluster=str(seen), plugin=self._id)
        return True

    async def _has_living_job(self, seen: ObservedObject) -> bool:
        meta = seen.metadata
        token = ""
        while True:
            page = await self._cluster.list(
                self._job_kind, namespace=meta.namespace, labels={CLUSTER_LABEL: meta.name}, continue_token=token
            )
            if any(not self._plugin.is_terminal(job) for job in page.items):
                return True
            token = page.continue_token
            if not token:
                return False


def is_going(seen: ObservedObject) -> bool:
    """Whether a cluster takes no jobs any more, for it is, or is about to be, deleted."""
    return seen.metadata.deletion_timestamp is not None or CONDEMNED_ANNOTATION in seen.metadata.annotations


def _ignore(live: LiveTask) -> None:
    """Nobody is told before there is somebody to tell."""
