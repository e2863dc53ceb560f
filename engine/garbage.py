"""Deletes tasks that have been over for long enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import anyio
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import TASK_ACTION, Cluster, ObjectMeta, ObservedObject
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile.live_task import is_tidy
from propfan.pluginmachinery.errors import ApiError, NotFoundError
from propfan.pluginmachinery.taskaction import COMPLETED_TIME_FORMAT, COMPLETED_TIME_LABEL, TERMINATION_STATUS_LABEL

logger = structlog.get_logger(__name__)

_TURN_S: Final = 10.0
"""How often an engine that may not sweep asks again."""


class GarbageCollector:
    """Sweeps at the start and then at every interval; an interval of 0 never sweeps.

    What is deleted wears both labels of a task that is over, and has been let go by the engine.

    Args:
        before_delete: Called with each task that is about to be deleted. It may be called again, for a
            deletion can fail.
        may_sweep: Asked each time; of several engines one does it.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: EngineConfig,
        clock: Clock,
        *,
        before_delete: Callable[[ObjectMeta], Awaitable[None]],
        may_sweep: Callable[[], bool] = lambda: True,
    ) -> None:
        self._cluster: Final = cluster
        self._interval_s: Final = config.gc_interval_s
        self._ttl: Final = timedelta(seconds=config.gc_ttl_s)
        self._clock: Final = clock
        self._before_delete: Final = before_delete
        self._may_sweep: Final = may_sweep
        self._namespaces: Final = config.namespaces or ("",)

    async def run(self) -> None:
        """Works until cancelled."""
        while self._interval_s > 0:
            if not self._may_sweep():
                await anyio.sleep(min(self._interval_s, _TURN_S))
                continue
            try:
                await self.sweep()
            except ApiError as error:
                logger.warning("garbage collection failed", error=str(error))
            await anyio.sleep(self._interval_s)

    async def sweep(self) -> int:
        """Deletes what is due; how many that were. An object that can not be deleted is left to the next sweep.

        Raises:
            ApiError: the tasks can not be listed.
        """
        oldest = (self._clock.now() - self._ttl).strftime(COMPLETED_TIME_FORMAT)
        return sum([await self._sweep(namespace, oldest) for namespace in self._namespaces])

    async def _sweep(self, namespace: str, oldest: str) -> int:
        deleted = 0
        token = ""
        while True:
            page = await self._cluster.list(
                TASK_ACTION,
                namespace=namespace,
                labels={TERMINATION_STATUS_LABEL: "terminated"},
                continue_token=token,
            )
            for seen in page.items:
                if self._is_due(seen, oldest) and await self._delete(seen.metadata):
                    deleted += 1
            token = page.continue_token
            if not token:
                return deleted

    def _is_due(self, seen: ObservedObject, oldest: str) -> bool:
        completed = seen.metadata.labels.get(COMPLETED_TIME_LABEL, "")
        return is_tidy(seen) and completed != "" and (not self._ttl or completed < oldest)

    async def _delete(self, meta: ObjectMeta) -> bool:
        try:
            await self._before_delete(meta)
            await self._cluster.delete(TASK_ACTION, meta.namespace, meta.name, uid=meta.uid)
        except NotFoundError:
            return False
        except ApiError as error:
            logger.warning("task can not be deleted", task=f"{meta.namespace}/{meta.name}", error=str(error))
            return False
        return True
