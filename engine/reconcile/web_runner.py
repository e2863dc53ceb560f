"""What a goal asks of a web API plugin: quota, creation, news of the job, and its deletion.

A round never waits for the service. It asks ``Jobs`` for a call and ends; the answer calls for the next
round, which turns it into an event by ``engine/web/machine.py``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import structlog

from propfan.engine.reconcile import answers
from propfan.engine.reconcile.core_runner import MAX_STATE_BYTES
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.task_context import RoundContext
from propfan.engine.task_events import readable
from propfan.engine.task_state import Delayed, Event, Launched, ObjectGone, PluginData, Postponed
from propfan.engine.web import machine
from propfan.engine.web.jobs import Answer, Job, Jobs, JobsOfPlugin
from propfan.engine.web.machine import Accepted, CallEvent, Declined, Told, Unanswered, Unseen, WebStep
from propfan.engine.web.quotas import Quotas, TaskResources
from propfan.pluginmachinery import phases
from propfan.pluginmachinery.contexts import AllocationStatus
from propfan.pluginmachinery.entries import LoadedWebPlugin
from propfan.pluginmachinery.errors import (
    CORRUPTED_PLUGIN_STATE,
    METADATA_TOO_LARGE,
    NON_RETRYABLE_CODES,
    ApiError,
    DecodeError,
    PermanentError,
    PropfanError,
    StorageError,
    TaskError,
    TransientError,
    UnansweredError,
    code_of,
)
from propfan.pluginmachinery.metadata import generated_name
from propfan.pluginmachinery.phases import Phase, PhaseInfo
from propfan.pluginmachinery.web_plugin import (
    WEB_PLUGIN_STATE_VERSION,
    CreatedResource,
    Pace,
    Paced,
    SyncWebPlugin,
    WebPhase,
    WebPluginState,
    decode_state,
    encode_state,
)

logger = structlog.get_logger(__name__)

FAILED: Final = "TaskFailedWithError"
"""Code of an attempt that the service refused; the name is Flyte's."""

OUTPUTS_NOT_FOUND: Final = "OutputsNotFound"

_WAITS_FOR_QUOTA: Final = "Quota for task has exceeded. Waiting for the resource."
_QUOTA_AGAIN_S: Final = 30.0
"""Besides being called when a token becomes free."""

_NOTED_FROM: Final = 2
"""Failed looks in a row from which the task says so."""

_DELETE_TRIES: Final = 8
"""Of a service that answers, and always with an error."""

_replace = msgspec.structs.replace


class WebRunner:
    """Runs the tasks of one web API plugin. Every method is safe to repeat.

    Args:
        context_of: Of a task and an attempt, made when a call begins: while it waits for its turn it holds nothing.
    """

    def __init__(
        self, loaded: LoadedWebPlugin, jobs: Jobs, quotas: Quotas, context_of: Callable[[LiveTask, int], RoundContext]
    ) -> None:
        self.loaded: Final = loaded
        self._plugin: Final[Any] = loaded.plugin
        self._is_sync: Final = isinstance(loaded.plugin, SyncWebPlugin)
        self._is_paced: Final = isinstance(loaded.plugin, Paced)
        self._max_failures: Final = loaded.config.caching.max_system_failures
        self._jobs: Final = jobs
        self._of_plugin: Final[JobsOfPlugin] = jobs.of_plugin(loaded)
        self._quotas: Final = quotas
        self._context_of: Final = context_of
        quotas.register(loaded.entry.id, loaded.config.resource_quotas)

    # -- Launch ------------------------------------------------------------------------------------

    async def launch(self, live: LiveTask, ctx: RoundContext) -> Event:
        """Gets quota, and has written down that ``create`` is about to be called."""
        name = generated_name(live.key.name, ctx.attempt)
        key = f"{name}-{live.identity.uid}-{live.state.system_failures}"
        quota = ""
        if self.loaded.config.resource_quotas and not self._is_sync:
            demand = await self._plugin.resource_requirements(ctx)
            quota, resources = demand.namespace, self._resources(live)
            status = await resources.allocate(quota, _token(live, ctx.attempt), demand.constraints)
            if status is not AllocationStatus.GRANTED:
                shortage = resources.shortage(quota, demand.constraints)
                return Postponed(f"{_WAITS_FOR_QUOTA} {shortage}", _QUOTA_AGAIN_S)
        live.must_look = True  # there is no object whose first change would call for it
        self._drop_job(live)
        live.job = self._new_job(live, ctx, key)
        return Launched(
            f"handed to plugin {self.loaded.entry.id}", _data(WebPluginState(WebPhase.CREATING, key, quota=quota))
        )

    def taken_up(self, live: LiveTask) -> None:
        """A task that an earlier engine drove goes on with the quota that it holds."""
        state = _state_or_none(live)
        if state is not None and state.quota and machine.may_run(state):
            self._resources(live).hold(state.quota, _token(live, _owner(live)))

    # -- Observe -----------------------------------------------------------------------------------

    async def observe(self, live: LiveTask, ctx: RoundContext) -> Event | None:
        """What is new of the job; ``None`` when nothing is.

        Raises:
            PermanentError: code ``CorruptedPluginState``; what was kept of the job can not be read.
        """
        if live.state.awaits_write and not live.is_durable:
            return None
        state = _state(live)
        job = self._job(live, ctx, state)
        if state.phase is WebPhase.RESOURCES_CREATED:
            return await self._look(live, ctx, job, state)
        return await self._create(live, ctx, job, state)

    async def _create(self, live: LiveTask, ctx: RoundContext, job: Job, state: WebPluginState) -> Event | None:
        answer = job.answer
        if answer is None:
            self._call_create(live, ctx, job)
            return None
        event = self._created(answer, ctx)
        if isinstance(event, Accepted):
            return await self._accepted(live, ctx, job, state, event, answer.value.resource)
        if isinstance(event, Told):
            event = await self._checked(ctx, event)
        job.answer = None
        return self._apply(live, ctx, job, state, event)

    async def _accepted(
        self, live: LiveTask, ctx: RoundContext, job: Job, state: WebPluginState, event: Accepted, resource: Any
    ) -> Event | None:
        """The job is there; a service that told at once how it stands is listened to at once."""
        taken = machine.step(state, event, self._max_failures, ctx.now)
        if len(encode_state(taken.state)) > MAX_STATE_BYTES:
            self._jobs.forsake(job, event.meta)
            problem = f"the meta of the job has {len(event.meta)} bytes, the engine keeps at most {MAX_STATE_BYTES}"
            job.answer = None
            return self._apply(live, ctx, job, state, Declined(phases.failure(METADATA_TOO_LARGE, problem, ctx.now)))
        told: CallEvent = event
        if resource is not None:
            told = await self._told(live, ctx, taken.state, event.meta, resource)
        job.answer, job.meta, job.failures, job.seen = None, event.meta, 0, resource
        is_told = isinstance(told, Told)
        result = self._apply(live, ctx, job, taken.state, told) if is_told else self._observed(live, job, taken)
        if live.job is job:  # it has not ended at once
            self._jobs.look_after(job)
        return result

    async def _look(self, live: LiveTask, ctx: RoundContext, job: Job, state: WebPluginState) -> Event | None:
        answer = job.answer
        if answer is None:
            self._jobs.look_after(job, is_old=True)
            return None
        if answer.error is not None:
            event: CallEvent = _unseen(answer.error)
        else:
            event = await self._told(live, ctx, state, job.meta or b"", answer.value)
        if isinstance(event, Told):
            job.seen, job.is_noted = answer.value, False
        result = self._apply(live, ctx, job, state, event)
        self._jobs.look_on(job)
        return result

    async def _told(
        self, live: LiveTask, ctx: RoundContext, state: WebPluginState, meta: bytes, resource: Any
    ) -> CallEvent:
        """What the plugin makes of a look.

        Raises:
            StorageError, TransientError, ApiError: something of the engine's own is out of order; the look stays.
        """
        try:
            info = answers.phase_info(await self._plugin.status(ctx, meta, resource), self.loaded.entry.id)
        except (StorageError, TransientError, ApiError):
            raise
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything
            return _unseen(error)
        links = info.info.logs if info.info is not None else ()
        digest = zlib.crc32(msgspec.json.encode(links)) if links else 0
        last = ctx.plugin_state
        if digest != state.links_digest and info.phase is last.phase and info.version <= last.phase_version:
            info = info.with_version(last.phase_version + 1)  # new links are worth an event
        return await self._checked(ctx, Told(info, digest))

    async def _checked(self, ctx: RoundContext, told: Told) -> Told:
        """A job that ended well has left its outputs, or an error that explains why not."""
        if told.info.phase is not Phase.SUCCESS or not ctx.template.interface.outputs.variables:
            return told
        if await ctx.outputs.exists() or await ctx.outputs.read_error() is not None:
            return told
        problem = f"the job succeeded and left no outputs: the service must answer with them, or have {ctx.paths.output} written"
        return Told(phases.retryable_failure(OUTPUTS_NOT_FOUND, problem, ctx.now, told.info.info), told.links_digest)

    def _apply(
        self, live: LiveTask, ctx: RoundContext, job: Job, state: WebPluginState, event: CallEvent
    ) -> Event | None:
        taken = machine.step(_replace(state, failures=job.failures), event, self._max_failures, ctx.now)
        job.failures = taken.state.failures
        if taken.info is not None:
            return self._observed(live, job, taken)
        if isinstance(event, Unseen):
            if job.failures < _NOTED_FROM:
                return None
            job.is_noted = True
        return Delayed(taken.waiting_for, taken.retry_after_s)

    def _observed(self, live: LiveTask, job: Job, taken: WebStep) -> Event:
        info: PhaseInfo = taken.info  # type: ignore[assignment]
        data = _data(_replace(taken.state, failures=0, problem=""))
        if taken.state.phase in (WebPhase.SUCCEEDED, WebPhase.USER_FAILURE):
            self._free(live)
        changed = data if data != live.state.plugin_data else None
        return _replace(answers.observed(info), plugin_data=changed)

    # -- Remove ------------------------------------------------------------------------------------

    async def remove(self, live: LiveTask, ctx: RoundContext, *, force: bool) -> Event | None:
        """Deletes a job that may still run; ``None`` while that is under way.

        Where the answer of ``create`` was lost, it is called once more, with the same key, to learn what to
        delete. A job that can not be deleted is left alone after some tries, and logged.
        """
        state = _state_or_none(live)
        if state is None or ctx.attempt != _owner(live):
            self._give_back(live, ctx.attempt)  # it may have waited for quota
            return ObjectGone()
        job = self._job(live, ctx, state)
        if job.busy in ("create", "delete"):
            return None
        answer, job.answer = job.answer, None
        if answer is not None and answer.kind == "delete":
            return self._deleted(live, answer)
        if answer is not None and answer.kind == "create":
            event = self._created(answer, ctx)
            if isinstance(event, Unanswered):
                return Delayed(event.problem, event.retry_after_s)
            job.may_exist = False
            if isinstance(event, Accepted):
                job.meta = event.meta
        if self._is_sync or not machine.may_run(state):
            return self._gone(live)
        if job.meta is None and not job.may_exist:
            return self._gone(live)
        if job.meta is None:
            self._call_create(live, ctx, job)
        else:
            reason = live.state.outcome.value if live.state.outcome is not None else "the attempt is over"
            self._jobs.call(job, "delete", partial(self._plugin.delete, job.meta, reason))
        return None

    def _deleted(self, live: LiveTask, answer: Answer) -> Event:
        error = answer.error
        if error is None:
            return self._gone(live)
        text = _text(error)
        if isinstance(error, TransientError | StorageError | ApiError):
            return Delayed(f"the job can not be deleted yet: {text}", getattr(error, "retry_after_s", 0.0))
        if isinstance(error, PermanentError) or live.state.tries >= _DELETE_TRIES:
            logger.error("job can not be deleted and is left alone", task=str(live.key), error=text)
            return self._gone(live)
        return Delayed(f"the job can not be deleted: {text}")

    def let_go(self, live: LiveTask) -> None:
        """The engine does not drive the task any more; its job may well go on for another one."""
        if live.job is not None:
            self._jobs.drop(live.job)
        self._give_back(live, _owner(live))

    def abandon(self, live: LiveTask) -> None:
        """The task was deleted from under the engine, after ``let_go``: nobody needs its job any more."""
        state, job = _state_or_none(live), live.job
        if state is None or job is None or self._is_sync or not machine.may_run(state):
            return
        job.is_orphan = True
        if job.meta is not None and job.busy != "delete":
            self._jobs.forsake(job, job.meta)

    def _gone(self, live: LiveTask) -> ObjectGone:
        self._free(live)
        return ObjectGone()

    # -- Jobs and what they hold -------------------------------------------------------------------

    def _job(self, live: LiveTask, ctx: RoundContext, state: WebPluginState) -> Job:
        """The job as this process knows it; one of an earlier process may exist from the start."""
        job = live.job
        if job is None or job.idempotency_key != state.idempotency_key:
            self._drop_job(live)
            job = live.job = self._new_job(live, ctx, state.idempotency_key)
            job.may_exist = True
            job.meta = state.resource_meta
        return job

    def _new_job(self, live: LiveTask, ctx: RoundContext, key: str) -> Job:
        pace = self._plugin.pace(ctx) if self._is_paced else Pace()
        return Job(live, self._of_plugin, key, pace)

    def _drop_job(self, live: LiveTask) -> None:
        if live.job is not None:
            self._jobs.drop(live.job)
            live.job = None

    def _free(self, live: LiveTask) -> None:
        """Nothing is called for the job any more, and its quota is for others."""
        self._drop_job(live)
        self._give_back(live, _owner(live))

    def _give_back(self, live: LiveTask, attempt: int) -> None:
        """Also the place of one that still waits; it does not say for which quota."""
        for quota in self.loaded.config.resource_quotas:
            self._resources(live).give_back(quota, _token(live, attempt))

    def _resources(self, live: LiveTask) -> TaskResources:
        identity = live.identity
        return TaskResources(
            self._quotas,
            self.loaded.entry.id,
            project=identity.project,
            task_namespace=identity.namespace,
            on_granted=partial(self._jobs.wake, live),
        )

    def _call_create(self, live: LiveTask, ctx: RoundContext, job: Job) -> None:
        if not job.busy:
            self._jobs.call(job, "create", partial(self._created_by, live, ctx.attempt, job.idempotency_key))

    async def _created_by(self, live: LiveTask, attempt: int, key: str) -> Any:
        ctx = self._context_of(live, attempt)
        ctx.idempotency_key = key
        return await (self._plugin.do(ctx) if self._is_sync else self._plugin.create(ctx))

    def _created(self, answer: Answer, ctx: RoundContext) -> CallEvent:
        """What the answer of ``create``, or of ``do``, means.

        Raises:
            TaskError: it is not what the contract says.
        """
        error = answer.error
        if error is None and self._is_sync:
            info = answers.phase_info(answer.value, self.loaded.entry.id)
            if not info.phase.is_terminal:
                problem = f"is in phase {info.phase.name}: a synchronous plugin ends the task"
                return Declined(phases.failure("InvalidPhaseInfo", self._wrong(problem), ctx.now))
            return Told(info)
        if error is None:
            value = answer.value
            if isinstance(value, CreatedResource) and isinstance(value.meta, bytes):
                return Accepted(value.meta)
            problem = f"is a {type(value).__name__}, not a CreatedResource with bytes as its meta"
            return Declined(phases.failure("InvalidCreatedResource", self._wrong(problem), ctx.now))
        if isinstance(error, UnansweredError | TimeoutError):
            return Unanswered(_text(error), counts=True, retry_after_s=getattr(error, "retry_after_s", 0.0))
        if isinstance(error, TransientError | ApiError | StorageError):
            return Unanswered(_text(error), counts=False, retry_after_s=getattr(error, "retry_after_s", 0.0))
        code = code_of(error)
        message = readable(error.message if isinstance(error, TaskError) else _text(error))
        if isinstance(error, PermanentError) or code in NON_RETRYABLE_CODES:
            return Declined(phases.failure(code or FAILED, message, ctx.now))
        return Declined(phases.retryable_failure(code or FAILED, message, ctx.now))

    def _wrong(self, problem: str) -> str:
        return f"the answer of plugin '{self.loaded.entry.id}': {problem}"


def _owner(live: LiveTask) -> int:
    """The attempt whose job is kept."""
    return live.state.removing_attempt or live.state.attempt


def _token(live: LiveTask, attempt: int) -> str:
    """What an attempt holds of a quota, or waits for."""
    return f"{live.identity.uid}/{attempt}"


def _unseen(error: Exception) -> Unseen:
    code = code_of(error)
    message = readable(error.message) if isinstance(error, TaskError) else _text(error)
    return Unseen(code, message, isinstance(error, PermanentError) or code in NON_RETRYABLE_CODES)


def _text(error: Exception) -> str:
    return readable(str(error) if isinstance(error, PropfanError) else f"{type(error).__name__}: {error}")


def _data(state: WebPluginState) -> PluginData:
    return PluginData(WEB_PLUGIN_STATE_VERSION, encode_state(state))


def _state(live: LiveTask) -> WebPluginState:
    """Raises ``PermanentError`` when it can not be read."""
    data = live.state.plugin_data
    problem = "nothing was kept"
    if data is not None and data.version != WEB_PLUGIN_STATE_VERSION:
        problem = f"its version is {data.version}, not {WEB_PLUGIN_STATE_VERSION}"
    elif data is not None:
        try:
            return decode_state(data.content)
        except DecodeError as error:
            problem = error.problem
    raise PermanentError(CORRUPTED_PLUGIN_STATE, f"what was kept of the job of {live.key} can not be read: {problem}")


def _state_or_none(live: LiveTask) -> WebPluginState | None:
    if live.state.plugin_data is None:
        return None
    try:
        return _state(live)
    except PermanentError:
        return None
