"""One look at one task: from the goal of its stage to the event that comes of it."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from datetime import datetime
from typing import Final

import anyio
import structlog
from flyteidl2.workflow import run_definition_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine import machine
from propfan.engine.clock import Clock
from propfan.engine.cluster import TASK_ACTION
from propfan.engine.config import EngineConfig
from propfan.engine.reconcile import limits
from propfan.engine.reconcile.cluster_runner import ClusterRunner
from propfan.engine.reconcile.core_runner import CoreRunner
from propfan.engine.reconcile.kubernetes_runner import KubernetesRunner
from propfan.engine.reconcile.live_task import LiveTask, TaskKey, decode
from propfan.engine.reconcile.shared_clusters import SharedClusters
from propfan.engine.reconcile.task_context import Ports, RoundContext, TaskValues
from propfan.engine.reconcile.web_runner import WebRunner
from propfan.engine.resources.turns import Turns
from propfan.engine.task_cache import CacheAnswer, TaskCache
from propfan.engine.task_events import readable
from propfan.engine.task_state import (
    AbortRequested,
    Admitted,
    CacheBusy,
    CacheHit,
    CacheMissed,
    Collected,
    Delayed,
    Event,
    Faulted,
    Finalized,
    Goal,
    Launched,
    Limits,
    ObjectGone,
    Observed,
    Outcome,
    Rejected,
    Signaled,
    Stage,
    TimedOut,
)
from propfan.engine.web.jobs import Jobs, Poke
from propfan.engine.web.quotas import Quotas
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.entries import (
    LoadedClusterPlugin,
    LoadedCorePlugin,
    LoadedKubernetesPlugin,
    LoadedWebPlugin,
)
from propfan.pluginmachinery.errors import (
    NON_RETRYABLE_CODES,
    ApiError,
    ConflictError,
    DecodeError,
    ForbiddenError,
    NotFoundError,
    PermanentError,
    PluginError,
    PluginNotFoundError,
    PropfanError,
    StorageError,
    TaskError,
    ThrottledError,
    TransientError,
    UnavailableError,
    code_of,
)
from propfan.pluginmachinery.phases import Phase
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.taskaction import (
    ABORT_ANNOTATION,
    CACHE_OVERWRITE_ANNOTATION,
    COMPLETED_TIME_FORMAT,
    COMPLETED_TIME_LABEL,
    FINALIZER,
    TERMINATION_STATUS_LABEL,
    TaskAction,
    TaskActionSpec,
    validate,
)

logger = structlog.get_logger(__name__)

_VALUES_KEPT: Final = 2048
"""Tasks whose decoded values are kept between rounds; the rest is decoded again, about 30 us each."""

_LIMITS_KEPT: Final = 1024


_Runner = KubernetesRunner | CoreRunner | WebRunner


class Rounds:
    """Pursues goals. Holds no task: everything it needs to know of one comes with the call."""

    def __init__(
        self, registry: Registry, ports: Ports, cache: TaskCache, config: EngineConfig, k8s: K8sConfig, clock: Clock
    ) -> None:
        self._registry: Final = registry
        self._ports: Final = ports
        self._cache: Final = cache
        self._config: Final = config
        self._k8s: Final = k8s
        self._clock: Final = clock
        self._jobs: Final = Jobs(clock, config.plugin_timeout_s)
        self._quotas: Final = Quotas()
        self.turns: Final = Turns(config.quotas, self._jobs.wake)
        """Who may be launched, where quotas bound that."""
        self._runners: Final[dict[str, _Runner]] = {}
        self._shared: Final[dict[str, SharedClusters]] = {}
        self._values: Final[OrderedDict[TaskKey, TaskValues]] = OrderedDict()
        self._limits: Final[dict[Limits, Limits]] = {}
        """One of each, for most tasks have the same."""

    async def run(self, poke: Poke) -> None:
        """Looks at the jobs of external services and at shared clusters until cancelled.

        Args:
            poke: Called with a task that has news: it needs a round.
        """
        for loaded in self._registry.plugins:
            if isinstance(loaded, LoadedWebPlugin | LoadedClusterPlugin):
                self._runner_of(loaded.entry.id)
        async with anyio.create_task_group() as tasks:
            for loaded in self._registry.plugins:
                if isinstance(loaded, LoadedClusterPlugin):
                    tasks.start_soon(self._shared_by(loaded).run, poke)
            await self._jobs.run(poke)

    async def next_event(self, live: LiveTask, now: datetime) -> Event | None:
        """What happens to the task next; ``None`` when there is nothing to do but wait."""
        state = live.state
        self.turns.look(live, now)
        if live.must_hold:
            await self._hold(live, now)
        demand = self._demanded(live)
        if demand is not None:
            return demand
        limit = machine.reached_limit(state, now)
        if limit is not None:
            may_have_ended = state.stage is Stage.PAUSED or (state.stage is Stage.ACTIVE and live.must_look)
            last_look = await self._pursue(live, now) if may_have_ended else None
            live.must_look = False
            return last_look if _is_an_end(last_look) else TimedOut(limit)
        if not live.may_pursue or (state.retry_at is not None and state.retry_at > now and not self._is_poked(live)):
            return None
        stage = state.stage
        if (stage is Stage.ACTIVE or stage is Stage.PAUSED) and not self._must_look(live, now):
            if live.job is not None and live.job.is_watched:
                self.forget(live.key)  # its next news may be hours away
            return None
        live.must_look = False
        return await self._pursue(live, now)

    def _demanded(self, live: LiveTask) -> Event | None:
        """What people ask for comes before everything else."""
        stage = live.state.stage
        if stage.is_over:
            return None
        meta = live.action.metadata
        if ABORT_ANNOTATION in meta.annotations:
            return AbortRequested(meta.annotations[ABORT_ANNOTATION])
        if meta.deletion_timestamp is not None:
            return AbortRequested("")
        return None

    def _is_poked(self, live: LiveTask) -> bool:
        """What goes away, and a job that has news, is listened to, however long the next try is off."""
        stage = live.state.stage
        if not live.must_look or stage is Stage.LAUNCHING or stage is Stage.RECEIVED:
            return False
        if stage is Stage.CLEANING or stage is Stage.ENDING:
            return True
        runner = self._runners.get(live.state.plugin_id)
        is_due = stage is Stage.WAITING_FOR_RESOURCES and (
            isinstance(runner, ClusterRunner) or self.turns.has_come(live)
        )
        return is_due or isinstance(runner, WebRunner)

    def _must_look(self, live: LiveTask, now: datetime) -> bool:
        if live.must_look:
            return True
        wake = machine.next_wake(live.state)
        return wake is not None and wake[0] <= now

    async def _pursue(self, live: LiveTask, now: datetime) -> Event | None:
        """The goal's result; whatever a plugin or a port does wrong becomes an event of this task alone."""
        try:
            return await self._goals(live, now)
        except PropfanError as error:
            return _event_of(error)
        except Exception as error:  # a plugin may raise anything; the loop and the other tasks go on
            logger.exception("round failed", task=str(live.key), goal=machine.goal(live.state).value)
            return _event_of(error)

    async def _goals(self, live: LiveTask, now: datetime) -> Event | None:
        match machine.goal(live.state):
            case Goal.ADMIT:
                return await self._admit(live)
            case Goal.OBSERVE:
                return await self._runner(live).observe(live, self._context(live, now))
            case Goal.LAUNCH:
                return await self._launch(live, now)
            case Goal.COLLECT:
                return await self._collect(live, now)
            case Goal.FINALIZE:
                return await self._finalize(live, now)
            case Goal.REMOVE_OBJECT:
                return await self._remove(live, now)
            case Goal.LOOK_UP_CACHE:
                return await self._look_up_cache(live, now)
            case Goal.AWAIT_SIGNAL:
                status = decode(live.action).status
                return Signaled(status.signalled_by) if status.signal_value is not None else None
            case Goal.NONE:
                return None

    def overdue(self, live: LiveTask) -> Event:
        """The event of a turn that had to be cancelled."""
        goal = machine.goal(live.state)
        text = f"{goal.value}: no answer within {self._config.plugin_timeout_s:g} s"
        return Faulted("PluginTimeout", text) if goal in (Goal.LAUNCH, Goal.OBSERVE) else Delayed(text)

    # -- Goals -------------------------------------------------------------------------------------

    async def _admit(self, live: LiveTask) -> Event:
        try:
            values = self._task_values(live, live.state.attempt)
            action = values.action
            validate(action)
            checks_cache = False
            if action.spec.action_type != "condition":
                checks_cache = values.template.metadata.discoverable
            else:
                parse_condition(action.spec)
        except (DecodeError, TaskError) as error:
            message = error.message if isinstance(error, TaskError) else str(error)
            return Rejected(Outcome.INVALID, message)
        if action.spec.action_type == "condition":
            return Admitted("", is_condition=True)
        try:
            loaded = self._registry.resolve(action.spec.task_type)
        except PluginNotFoundError as error:
            return Rejected(Outcome.NO_PLUGIN, error.message)
        except PluginError as error:
            return Rejected(Outcome.NO_PLUGIN, str(error))
        meta = live.action.metadata
        if FINALIZER not in meta.finalizers:
            patch = {"metadata": {"finalizers": [*meta.finalizers, FINALIZER]}}
            version = "" if live.is_confirmed else meta.resource_version
            live.action = await self._ports.cluster.patch(
                TASK_ACTION, meta.namespace, meta.name, patch, resource_version=version
            )
            live.is_confirmed = True
        if isinstance(loaded, LoadedCorePlugin) and loaded.properties.disable_node_level_caching:
            checks_cache = False
        return Admitted(loaded.entry.id, checks_cache=checks_cache)

    async def _launch(self, live: LiveTask, now: datetime) -> Event:
        """Once it is the task's turn. What can not be launched holds up nobody else."""
        waits = self.turns.await_turn(live)
        if waits is not None:
            return waits
        event: Event | None = None
        try:
            event = await self._runner(live).launch(live, self._context(live, now))
        finally:
            if not isinstance(event, Launched):
                self.turns.give_back(live)
        return event

    async def _look_up_cache(self, live: LiveTask, now: datetime) -> Event:
        if live.action.metadata.annotations.get(CACHE_OVERWRITE_ANNOTATION) == "true":
            return CacheMissed()
        ctx = self._context(live, now)
        answer = await self._cache.look_up(ctx.action, ctx.template, ctx.inputs, ctx.paths, owner=str(live.key))
        match answer:
            case CacheAnswer(is_hit=True):
                return CacheHit()
            case CacheAnswer(owner=owner) if owner and owner != str(live.key):
                return CacheBusy(owner, answer.retry_after_s)
            case _:
                return CacheMissed()

    async def _hold(self, live: LiveTask, now: datetime) -> None:
        """Keeps a reservation over a restart. A key that can not be known now is tried again in the next round."""
        try:
            ctx = self._context(live, now)
            await self._cache.hold(ctx.action, ctx.template, ctx.inputs, owner=str(live.key))
        except (StorageError, DecodeError, TaskError) as error:
            logger.warning("cache reservation is not kept", task=str(live.key), error=str(error))
            return
        live.must_hold = False

    async def _collect(self, live: LiveTask, now: datetime) -> Event:
        """What the attempt left decides: an ``error.pb`` over everything, also over exit code 0."""
        ctx = self._context(live, now)
        document = await ctx.outputs.read_error()
        if document is not None:
            return Collected(document)
        pending = live.state.pending
        if pending is not None and pending.phase is not Phase.SUCCESS:
            return Collected()
        if ctx.template.interface.outputs.variables and not await ctx.outputs.exists():
            return Faulted(
                "OutputsNotFound", f"the task ended well but left neither {ctx.paths.output} nor {ctx.paths.error}"
            )
        if not ctx.template.metadata.discoverable:
            return Collected()
        status = await self._cache.store(ctx.action, ctx.template, ctx.inputs, ctx.paths)
        return Collected(cache_status=status)

    async def _remove(self, live: LiveTask, now: datetime) -> Event | None:
        ctx = self._context(live, now, attempt=live.state.removing_attempt)
        return await self._runner(live).remove(live, ctx, force=True)

    async def _finalize(self, live: LiveTask, now: datetime) -> Event | None:
        state = live.state
        runner = self._last_runner(live)
        if runner is not None:
            # The end may have come while an earlier attempt's object was being removed.
            for attempt in dict.fromkeys((state.removing_attempt or state.attempt, state.attempt)):
                force = state.remove_object or attempt == state.removing_attempt
                removed = await runner.remove(live, self._context(live, now, attempt), force=force)
                if not isinstance(removed, ObjectGone):
                    return removed
        await self._cache.release(owner=str(live.key))
        meta = live.action.metadata
        ended = state.history[-1].occurred_at if state.history else now
        patch = {
            "metadata": {
                "labels": {
                    TERMINATION_STATUS_LABEL: "terminated",
                    COMPLETED_TIME_LABEL: ended.strftime(COMPLETED_TIME_FORMAT),
                },
                "finalizers": [name for name in meta.finalizers if name != FINALIZER] or None,
            }
        }
        with contextlib.suppress(NotFoundError):
            live.action = await self._ports.cluster.patch(TASK_ACTION, meta.namespace, meta.name, patch)
        self.turns.give_back(live)
        self.forget(live.key)
        return Finalized()

    # -- What goals work on ------------------------------------------------------------------------

    def _last_runner(self, live: LiveTask) -> _Runner | None:
        """Who may have made something for a task that is over; ``None`` when nobody did, or nobody is left to ask.

        One that ended unadmitted may have been launched by an engine that died before it wrote that down.
        """
        state = live.state
        if state.outcome is Outcome.INVALID or state.outcome is Outcome.NO_PLUGIN:
            return None
        try:
            if state.plugin_id:
                return self._runner(live)
            values = self._task_values(live, state.attempt)
            if values.action.spec.action_type == "condition":
                return None
            _ = values.metadata  # a template that can not be read was never launched
            return self._runner_of(self._registry.resolve(values.action.spec.task_type).entry.id)
        except (PluginError, TaskError, DecodeError) as error:
            logger.warning("nothing is tidied up", task=str(live.key), error=str(error))
            return None

    def _runner(self, live: LiveTask) -> _Runner:
        return self._runner_of(live.state.plugin_id)

    def _runner_of(self, plugin_id: str) -> _Runner:
        runner = self._runners.get(plugin_id)
        if runner is not None:
            return runner
        loaded = next((p for p in self._registry.plugins if p.entry.id == plugin_id), None)
        match loaded:
            case LoadedKubernetesPlugin():
                runner = KubernetesRunner(loaded, self._ports.cluster, self._k8s)
            case LoadedClusterPlugin():
                runner = ClusterRunner(loaded, self._ports.cluster, self._k8s, self._shared_by(loaded))
            case LoadedCorePlugin():
                runner = CoreRunner(loaded, self._config.core_poll_s)
            case LoadedWebPlugin():
                runner = WebRunner(loaded, self._jobs, self._quotas, self._context_now)
            case _:
                raise PluginError(plugin_id, "id", "this task was started by a plugin that is not loaded any more")
        self._runners[plugin_id] = runner
        return runner

    def _shared_by(self, loaded: LoadedClusterPlugin) -> SharedClusters:
        clusters = self._shared.get(loaded.entry.id)
        if clusters is None:
            config = self._config
            clusters = self._shared[loaded.entry.id] = SharedClusters(
                loaded,
                self._ports.cluster,
                self._clock,
                namespaces=config.namespaces,
                sweep_s=config.cluster_sweep_s,
            )
        return clusters

    def object_name(self, live: LiveTask) -> str:
        """Of the present attempt's object; empty when the plugin has none."""
        runner = self._runners.get(live.state.plugin_id)
        if not isinstance(runner, KubernetesRunner):
            return ""
        return runner.object_name(self._context(live, self._clock.now()))

    def output_uri(self, live: LiveTask) -> str:
        """Where the present attempt's outputs are, or will be; empty when the task names no place."""
        if not live.state.plugin_id:
            return ""
        return self._task_values(live, live.state.attempt).paths.output

    def _context(self, live: LiveTask, now: datetime, attempt: int = 0) -> RoundContext:
        values = self._task_values(live, attempt or live.state.attempt)
        return RoundContext(values, live.state, self._ports, now, live.seen_pods(), self.turns.tokens_of(live))

    def _context_now(self, live: LiveTask, attempt: int) -> RoundContext:
        return self._context(live, self._clock.now(), attempt)

    def _task_values(self, live: LiveTask, attempt: int) -> TaskValues:
        values = self._values.get(live.key)
        if values is not None and values.attempt == attempt and values.action.metadata.uid == live.identity.uid:
            self._values.move_to_end(live.key)
            return values
        return self._keep(live.key, TaskValues(decode(live.action), attempt, self._ports))

    def _keep(self, key: TaskKey, values: TaskValues) -> TaskValues:
        self._values[key] = values
        if len(self._values) > _VALUES_KEPT:
            self._values.popitem(last=False)
        return values

    def limits_of(self, key: TaskKey, action: TaskAction) -> Limits:
        """The task's bounds; the defaults where its template can not be read, which admission refuses later."""
        try:
            if action.spec.action_type == "condition":
                found = limits.of_condition(parse_condition(action.spec).timeout, self._config)
            else:
                values = self._keep(key, TaskValues(action, max(action.status.attempts, 1), self._ports))
                found = limits.of_template(values.template, self._config)
        except TaskError:
            found = limits.default(self._config)
        if len(self._limits) > _LIMITS_KEPT:
            self._limits.clear()
        return self._limits.setdefault(found, found)

    def taken_up(self, live: LiveTask) -> None:
        """A task is driven from now on: what it holds is counted before anybody else gets any."""
        self.turns.taken_up(live)
        runner = self._web_runner(live)
        if runner is not None:
            runner.taken_up(live)

    def let_go(self, live: LiveTask) -> None:
        """A task is not driven any more: nothing is kept of it, and nothing looked at."""
        self.turns.give_back(live)
        self.forget(live.key)
        runner = self._web_runner(live)
        if runner is not None:
            runner.let_go(live)

    def reserves(self, key: TaskKey, action: TaskAction) -> bool:
        """Whether only one task at a time computes its outputs."""
        try:
            values = self._keep(key, TaskValues(action, max(action.status.attempts, 1), self._ports))
            settings = values.template.metadata
        except TaskError:
            return False
        return bool(settings.discoverable and settings.cache_serializable)

    def handed_over(self, live: LiveTask) -> None:
        """Another engine drives a task that was let go, and keeps its reservation."""
        self._cache.let_go(owner=str(live.key))

    async def abandon(self, live: LiveTask) -> None:
        """Gives up what a task held that vanished before its end."""
        runner = self._web_runner(live)
        if runner is not None and await self._is_gone(live):
            runner.abandon(live)
        await self._cache.release(owner=str(live.key))

    async def _is_gone(self, live: LiveTask) -> bool:
        """Whether there is no such TaskAction any more; not just one that another engine drives, or this one anew."""
        try:
            latest = await self._ports.cluster.get(TASK_ACTION, *live.key)
        except NotFoundError:
            return True
        except ApiError as error:
            logger.warning("the job of a task is left alone", task=str(live.key), error=str(error))
            return False
        return latest.metadata.uid != live.identity.uid

    def _web_runner(self, live: LiveTask) -> WebRunner | None:
        if not live.state.plugin_id:
            return None
        try:
            runner = self._runner(live)
        except PluginError:
            return None
        return runner if isinstance(runner, WebRunner) else None

    def forget(self, key: TaskKey) -> None:
        """Drops what was kept of a task that is over."""
        self._values.pop(key, None)


def parse_condition(spec: TaskActionSpec) -> run_definition_pb2.ConditionAction:
    """The condition that an action waits for.

    Raises:
        TaskError: ``spec.conditionSpec`` is empty or no ``workflow.ConditionAction``.
    """
    if not spec.condition_spec:
        raise TaskError("InvalidSpec", "required spec fields are empty: [conditionSpec]")
    try:
        return run_definition_pb2.ConditionAction.FromString(spec.condition_spec)
    except ProtobufDecodeError as error:
        raise TaskError("InvalidSpec", f"spec.conditionSpec is not a workflow.ConditionAction: {error}") from error


def _event_of(error: Exception) -> Event:
    """Trouble outside delays a task; what is wrong with the task or its plugin is a fault."""
    name, code = type(error).__name__, code_of(error)
    text = readable(str(error) if isinstance(error, PropfanError) else f"{name}: {error}")
    if code in NON_RETRYABLE_CODES:
        return Faulted(code, readable(error.message) if isinstance(error, TaskError) else text, is_permanent=True)
    match error:
        case ConflictError():
            return Delayed(text, 0.05)
        case ForbiddenError():  # a right that is missing, or an admission rule: nothing is wrong with the task
            return Delayed(text, error.retry_after_s)
        case StorageError():
            return Delayed(text)
        case TransientError():
            return Delayed(text, error.retry_after_s)
        case TaskError():
            return Faulted(code, readable(error.message), is_permanent=isinstance(error, PermanentError))
        case ApiError() if isinstance(error, (ThrottledError, UnavailableError)) or error.status >= 500:
            return Delayed(text, error.retry_after_s)
        case ApiError():
            return Faulted(error.reason, text)
    return Faulted(name, text)


def _is_an_end(event: Event | None) -> bool:
    return isinstance(event, Signaled) or (isinstance(event, Observed) and event.phase.is_terminal)
