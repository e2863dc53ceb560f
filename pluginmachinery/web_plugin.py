"""The contract of plugins that run a task through the API of an external service.

An asynchronous service is asked to ``create`` a job and then polled; a synchronous one does all in
one call. The engine paces the calls by the plugin's own ``WebPluginConfig`` and persists
``WebPluginState``, so that a job outlives the engine that created it. ``Paced``, ``Discovering`` and
``Background`` are for plugins that need more.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import msgspec

from propfan.pluginmachinery.config import Duration
from propfan.pluginmachinery.contexts import ResourceConstraints, TaskContext
from propfan.pluginmachinery.errors import DecodeError
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
        workers: Looks in flight at once to one endpoint, 1 to 10000; as many creations and deletions beside them.
        max_system_failures: Failed looks in a row that are forgiven; the next one fails the task.
    """

    size: int = 100_000
    resync_interval: Duration = Duration.parse("30s")
    workers: int = 10
    max_system_failures: int = 5


class WebPluginConfig(msgspec.Struct, frozen=True, rename="camel"):
    """Pace and quotas of one plugin's calls.

    Attributes:
        resource_quotas: Namespace to how many jobs it may have at once; no quota where empty.
        resource_meta: Flyte writes it when it shows its configuration; nothing is made of it.
    """

    resource_quotas: Mapping[str, int] = {}
    read_rate_limiter: RateLimit = RateLimit(qps=30, burst=300)
    write_rate_limiter: RateLimit = RateLimit(qps=20, burst=200)
    caching: Caching = Caching()
    resource_meta: Any = None

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
    CREATING = 1
    """Quota is granted, and ``create`` may have been called: written down before the first call."""
    RESOURCES_CREATED = 2
    SUCCEEDED = 3
    USER_FAILURE = 4
    """The job ended badly, or was never accepted."""
    SYSTEM_FAILURE = 5
    """It was given up; what the job does is not known."""

    @property
    def is_terminal(self) -> bool:
        return self >= WebPhase.SUCCEEDED


class WebPluginState(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What is persisted of a job, as version ``WEB_PLUGIN_STATE_VERSION`` of the plugin's state.

    Attributes:
        idempotency_key: Of this launch: see ``WebContext``.
        resource_meta: What ``create`` answered; opaque to the engine; ``None`` until it did.
        quota: Namespace of the quota that is held; empty for none.
        links_digest: Of the log links that were told last.
        failures: Calls in a row that failed and count; saved only together with something else.
        problem: Of the last of them.
    """

    phase: WebPhase = WebPhase.NOT_STARTED
    idempotency_key: str = ""
    resource_meta: bytes | None = None
    quota: str = ""
    links_digest: int = 0
    failures: int = 0
    problem: str = ""


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(WebPluginState)


def encode_state(state: WebPluginState) -> bytes:
    return _encoder.encode(state)


def decode_state(content: bytes) -> WebPluginState:
    """Raises ``DecodeError`` when the bytes are no state."""
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError("state of a web API task", str(error)) from error


R = TypeVar("R")


class CreatedResource(msgspec.Struct, frozen=True):
    """A job that the service accepted.

    Attributes:
        meta: All that is needed to find it again; persisted, so small and free of secrets.
        resource: What a first ``get`` would answer, when the service told it at once; ``None`` when it did not.
    """

    meta: bytes
    resource: Any = None


class ResourceDemand(msgspec.Struct, frozen=True):
    """What a job takes of the quota ``namespace`` of ``WebPluginConfig.resource_quotas``."""

    namespace: str
    constraints: ResourceConstraints = ResourceConstraints()


class WebContext(TaskContext, Protocol):
    """What a plugin may use while it creates a job."""

    @property
    def idempotency_key(self) -> str:
        """Names this launch: the same each time ``create`` is repeated for it, another for every other launch.

        It begins with the attempt's generated name. An attempt is launched more than once only when the
        engine had to give up the first job.
        """
        ...


@runtime_checkable
class AsyncWebPlugin(Protocol[R]):
    """A service whose jobs are created, polled and deleted.

    ``R`` is what one look at a job tells. A look whose answer equals (``==``) the one before is no news.

    The engine writes down that it is about to call ``create`` before it does, and what ``create`` answered
    before anything rests on it. So ``create`` is called once, unless its answer was lost: by a crash, or by
    a connection that broke. Then it is called again with the same ``idempotency_key``.
    """

    def get_config(self) -> WebPluginConfig: ...

    async def resource_requirements(self, ctx: TaskContext) -> ResourceDemand:
        """What the task will take; asked only when there are quotas."""
        ...

    async def create(self, ctx: WebContext) -> CreatedResource:
        """Starts the job, or finds the one that an earlier call with the same ``idempotency_key`` started.

        Any other error than these fails the attempt: the service refused, and there is no job.

        Raises:
            TransientError: the service does not answer; the engine calls again, for as long as the task may wait.
            UnansweredError: it took the call and gave no answer in time; the engine calls again, a limited
                number of times (``Caching.max_system_failures``).
            PermanentError: the service will never accept this job; the task fails.
        """
        ...

    async def get(self, meta: bytes) -> R:
        """Looks at the job. May be called any number of times, from any replica.

        Errors count: after ``Caching.max_system_failures`` looks in a row that failed the next one fails the
        task, and the job is deleted.

        Raises:
            TransientError: with ``retry_after_s`` the service wants to be asked less often: that does not count.
            PermanentError: no later look can tell more; the task fails at once.
        """
        ...

    async def delete(self, meta: bytes, reason: str) -> None:
        """Cancels the job; succeeds when it is finished or unknown.

        Raises:
            TransientError: the service does not answer; the engine calls again until it does.
            PermanentError: it can not be cancelled; the engine leaves it alone.
        """
        ...

    async def status(self, ctx: TaskContext, meta: bytes, resource: R) -> PhaseInfo:
        """What the job's state means for the task. Asks the service nothing; may write outputs.

        An error counts as a failed look; ``StorageError`` is tried again with the same ``resource``.
        """
        ...


@runtime_checkable
class SyncWebPlugin(Protocol):
    """A service that does a whole task in one call of seconds."""

    def get_config(self) -> WebPluginConfig: ...

    async def do(self, ctx: WebContext) -> PhaseInfo:
        """Runs the task and answers with a terminal phase. May be called again after a restart.

        Errors are as of ``AsyncWebPlugin.create``.
        """
        ...


class Pace(msgspec.Struct, frozen=True):
    """How one task's job is looked at.

    Attributes:
        endpoint: Calls to one endpoint never wait for those to another; ``Caching.workers`` of each kind
            may be under way to each.
        interval: Between two looks; ``None`` is ``Caching.resync_interval``.
    """

    endpoint: str = ""
    interval: Duration | None = None


@runtime_checkable
class Paced(Protocol):
    """A web plugin, of either kind, that has several endpoints, or not the same pace for all tasks."""

    def pace(self, ctx: TaskContext) -> Pace: ...


class Discovery(msgspec.Struct, frozen=True):
    """What is known of the task types that services offer.

    Attributes:
        task_types: Those that the plugin can run now.
        unheard: Services that have not told yet what they offer, for people; empty when all have.
        has_begun: Every service was asked at least once, whether it answered or not.
    """

    task_types: frozenset[str] = frozenset()
    unheard: tuple[str, ...] = ()
    has_begun: bool = True


@runtime_checkable
class Discovering(Protocol):
    """A web plugin that learns only at run time which task types it can run.

    A type that another plugin names in its entry, and one that the configuration routes elsewhere, stays there.
    """

    def discovered(self) -> Discovery: ...


@runtime_checkable
class Background(Protocol):
    """A web plugin that has work of its own to do while the engine runs."""

    async def run(self) -> None:
        """Works until cancelled; then lets go of connections. It may be started again after that."""
        ...
