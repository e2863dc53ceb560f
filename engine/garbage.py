"""Deletes tasks that have been over for long enough."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import anyio
import structlog

from propfan.engine.clock import Clock
from propfan.engine.cluster import TASK_ACTION, Cluster
from propfan.engine.config import EngineConfig
from propfan.pluginmachinery.errors import ApiError, NotFoundError
from propfan.pluginmachinery.taskaction import COMPLETED_TIME_FORMAT, COMPLETED_TIME_LABEL, TERMINATION_STATUS_LABEL

logger = structlog.get_logger(__name__)


class GarbageCollector:
    """Sweeps at the start and then at every interval; an interval of 0 never sweeps.

    Args:
        on_deleted: Called with namespace and name of each task that was deleted.
    """

    def __init__(
        self,
        cluster: Cluster,
        config: EngineConfig,
        clock: Clock,
        *,
        on_deleted: Callable[[str, str], Awaitable[None]],
    ) -> None:
        self._cluster: Final = cluster
        self._interval_s: Final = config.gc_interval_s
        self._ttl: Final = timedelta(seconds=config.gc_ttl_s)
        self._clock: Final = clock
        self._on_deleted: Final = on_deleted

    async def run(self) -> None:
        """Works until cancelled."""
        while self._interval_s > 0:
            try:
                await self.sweep()
            except ApiError as error:
                logger.warning("garbage collection failed", error=str(error))
            await anyio.sleep(self._interval_s)

    async def sweep(self) -> int:
        """Deletes what is due; how many that were."""
        oldest = (self._clock.now() - self._ttl).strftime(COMPLETED_TIME_FORMAT)
        deleted = 0
        token = ""
        while True:
            page = await self._cluster.list(
                TASK_ACTION, labels={TERMINATION_STATUS_LABEL: "terminated"}, continue_token=token
            )
            for seen in page.items:
                meta = seen.metadata
                if meta.labels.get(COMPLETED_TIME_LABEL, "") >= oldest:
                    continue
                try:
                    await self._cluster.delete(TASK_ACTION, meta.namespace, meta.name, uid=meta.uid)
                except NotFoundError:
                    continue
                await self._on_deleted(meta.namespace, meta.name)
                deleted += 1
            token = page.continue_token
            if not token:
                return deleted
