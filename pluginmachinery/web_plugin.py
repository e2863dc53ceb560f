"""The contract of plugins that run a task through the API of an external service.

An asynchronous service is asked to ``create`` a job and then polled; a synchronous one does all in
one call. The engine paces the calls by the plugin's own ``WebPluginConfig`` and persists
``WebPluginState``, so that a job outlives the engine that created it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec

from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.contexts import ResourceConstraints, TaskContext
from propfan.pluginmachinery.phases import PhaseInfo

WEB_PLUGIN_STATE_VERSION: Final = 1


class RateLimit(msgspec.Struct, frozen=True):
    """A token bucket: ``qps`` calls a second (1 to 100000), at most ``burst`` (5 to 10000) at once."""

    qps: int
    burst: int


class Caching(msgspec.Struct, frozen=True, rename="camel"):
    """How known jobs are polled.

    Attributes:
        size: Jobs held at once, 10 to 500000.
        resync_interval: Time between two looks at one job, 5 s to 1 h.
        workers: Looks in flight at once, 1 to 10000.
        max_system_failures: Consecutive failed looks after which the task fails.
    """

    size: int = 100_000
    resync_interval: Duration = Duration.parse("30s")
    workers: int = 10
    max_system_failures: int = 5


class WebPluginConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Pace and quotas of one plugin's calls.

    Attributes:
        resource_quotas: Namespace to how many jobs it may have at once; no quota where empty.
    """

    resource_quotas: Mapping[str, int] = {}
    read_rate_limiter: RateLimit = RateLimit(qps=30, burst=300)
    write_rate_limiter: RateLimit = RateLimit(qps=20, burst=200)
    caching: Caching = Caching()

    def violations(self) -> tuple[str, ...]:
        """Every value outside its range, each as a sentence that names the field."""
        return tuple(
            f"{field} is expected to be between {low} and {high}. Provided value is {value}"
            for field, value, low, high in self._ranges()
            if not low <= value <= high
        )

    def _ranges(self) -> Iterator[tuple[str, Any, Any, Any]]:
        for name, limit in (("readRateLimiter", self.read_rate_limiter), ("writeRateLimiter", self.write_rate_limiter)):
            yield f"{name}.qps", limit.qps, 1, 100_000
            yield f"{name}.burst", limit.burst, 5, 10_000
        yield "caching.size", self.caching.size, 10, 500_000
        yield "caching.resyncInterval", self.caching.resync_interval, Duration.parse("5s"), Duration.parse("1h")
        yield "caching.workers", self.caching.workers, 1, 10_000


class WebPhase(enum.IntEnum):
    """How far the engine has come with a job."""

    NOT_STARTED = 0
    ALLOCATION_TOKEN_ACQUIRED = 1
    RESOURCES_CREATED = 2
    SUCCEEDED = 3
    USER_FAILURE = 4
    SYSTEM_FAILURE = 5

    @property
    def is_terminal(self) -> bool:
        return self >= WebPhase.SUCCEEDED


class WebPluginState(msgspec.Struct, frozen=True):
    """What is persisted of a job, as version ``WEB_PLUGIN_STATE_VERSION`` of the plugin's state.

    Attributes:
        resource_meta: What ``create`` answered; opaque to the engine.
        sync_failure_count: Consecutive looks that failed.
        allocation_token_request_start_time: When quota was first asked for.
        error_message: Of the last look that failed.
    """

    phase: WebPhase = WebPhase.NOT_STARTED
    phase_version: int = 0
    resource_meta: bytes = b""
    sync_failure_count: int = 0
    allocation_token_request_start_time: datetime | None = None
    error_message: str = ""


R = TypeVar("R")


class CreatedResource(msgspec.Struct, frozen=True):
    """A job that the service accepted.

    Attributes:
        meta: All that is needed to find it again; persisted, so small and free of secrets.
        resource: What a first ``get`` would answer, when the service told it at once.
    """

    meta: bytes
    resource: Any = None


class ResourceDemand(msgspec.Struct, frozen=True):
    """What a job takes of the quota ``namespace`` of ``WebPluginConfig.resource_quotas``."""

    namespace: str
    constraints: ResourceConstraints = ResourceConstraints()


@runtime_checkable
class AsyncWebPlugin(Protocol[R]):
    """A service whose jobs are created, polled and deleted; ``R`` is what one look at a job tells."""

    def get_config(self) -> WebPluginConfig: ...

    async def resource_requirements(self, ctx: TaskContext) -> ResourceDemand:
        """What the task will take; asked only when there are quotas."""
        ...

    async def create(self, ctx: TaskContext) -> CreatedResource:
        """Starts the job, or finds the one that an earlier call for the same attempt started.

        Raises:
            TransientError: the service does not answer; the engine tries again.
            PermanentError: the service will never accept this job.
        """
        ...

    async def get(self, meta: bytes) -> R:
        """Looks at the job. May be called any number of times, from any replica.

        Raises:
            TransientError: the service does not answer; the engine looks again.
        """
        ...

    async def delete(self, meta: bytes, reason: str) -> None:
        """Cancels the job; succeeds when it is finished or unknown."""
        ...

    async def status(self, ctx: TaskContext, meta: bytes, resource: R) -> PhaseInfo:
        """What the job's state means for the task. Asks the service nothing; may write outputs."""
        ...


@runtime_checkable
class SyncWebPlugin(Protocol):
    """A service that does a whole task in one call of seconds."""

    def get_config(self) -> WebPluginConfig: ...

    async def do(self, ctx: TaskContext) -> PhaseInfo:
        """Runs the task and answers with a terminal phase. May be called again after a restart."""
        ...
