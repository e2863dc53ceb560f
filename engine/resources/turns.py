"""Quotas of live tasks: when a task needs its token, and when it does not any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

import msgspec

from propfan.engine.cluster import ObservedObject
from propfan.engine.reconcile.live_task import LiveTask, TaskKey
from propfan.engine.resources.config import QuotasSection
from propfan.engine.resources.shares import Demand, Shares
from propfan.engine.resources.tokens import Owner, PluginTokens
from propfan.engine.task_state import Postponed, Stage
from propfan.pluginmachinery.contexts import ResourceManager

_HELD: Final = frozenset({Stage.ACTIVE, Stage.COLLECTING, Stage.CLEANING})
_BEFORE_LAUNCH: Final = frozenset({Stage.LAUNCHING, Stage.WAITING_FOR_RESOURCES})

_RUNNING_ELSEWHERE: Final = frozenset({"PhaseQueued", "PhaseInitializing", "PhaseRunning"})
"""``pluginPhase`` of what another replica has launched, and not seen the end of."""


class _Spec(msgspec.Struct, frozen=True):
    project: str = ""
    domain: str = ""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    plugin_phase: str = ""


class _Action(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()
    status: _Status = _Status()


_decode: Final = msgspec.json.Decoder(_Action).decode


class Turns:
    """Counts what runs, its own tasks and those of other replicas; does nothing while nothing is bounded.

    A token is held from the launch until the attempt's object is known to have ended, or is gone. It is never
    written down: after a restart it follows from the tasks that are there.

    Args:
        wake: Called with a task whose turn has come.
    """

    def __init__(self, config: QuotasSection, wake: Callable[[LiveTask], None]) -> None:
        self._config: Final = config
        self._is_on: Final = config.is_any
        self._shares: Final = Shares(config)
        self._tokens: Final = PluginTokens(self._shares)
        self._wake: Final = wake
        self._elsewhere: Final[dict[TaskKey, str]] = {}
        self._returning: Final[dict[TaskKey, LiveTask]] = {}
        """Tasks that waited when another engine drove them, or this one before a restart."""

    def await_turn(self, live: LiveTask) -> Postponed | None:
        """``None`` when the task may be launched; otherwise why it can not be now."""
        if not self._is_on:
            return None
        token = live.identity.uid
        if live.object is not None:  # launched by an engine that died before it wrote that down
            self._shares.hold(token, self._demand(live))
        if self._shares.ask(token, self._demand(live), partial(self._wake, live)):
            return None
        return Postponed(self._shares.why(token), self._config.tell_again_s)

    def has_come(self, live: LiveTask) -> bool:
        """Whether the task holds its token."""
        return self._is_on and self._shares.holds(live.identity.uid)

    def taken_up(self, live: LiveTask) -> None:
        """A task is driven here from now on; what it runs is counted, whatever the caps say."""
        if not self._is_on:
            return
        self._elsewhere.pop(live.key, None)
        stage = live.state.stage
        is_launched = live.object is not None and stage in _BEFORE_LAUNCH
        if stage in _HELD or is_launched or (stage is Stage.ENDING and live.state.remove_object):
            self._shares.hold(live.identity.uid, self._demand(live))
        else:
            self._shares.give_back(live.identity.uid)
            if stage is Stage.WAITING_FOR_RESOURCES:
                self._returning[live.key] = live
                if not self._shares.is_paused:
                    self._line_up()

    def tokens_of(self, live: LiveTask) -> ResourceManager | None:
        """What the task's plugin asks for more; ``None`` while nothing is bounded."""
        if not self._is_on:
            return None
        identity = live.identity
        owner = Owner(identity.uid, identity.project, identity.domain, identity.namespace)
        return self._tokens.of(owner, partial(self._wake, live))

    def look(self, live: LiveTask, now: datetime) -> None:
        """Gives back what a task does not need any more in the stage that it has come to."""
        if not self.has_come(live):
            return
        state = live.state
        is_pausing = state.stage is Stage.LAUNCHING and state.retry_at is not None and state.retry_at > now
        is_over = state.stage.is_over and not (state.stage is Stage.ENDING and state.remove_object)
        if is_over or is_pausing:
            self._tokens.release_all(live.identity.uid)
            self._shares.give_back(live.identity.uid)

    def give_back(self, live: LiveTask) -> None:
        """The task runs nothing, or is not driven here any more."""
        if self._is_on:
            self._returning.pop(live.key, None)
            self._tokens.release_all(live.identity.uid)
            self._shares.give_back(live.identity.uid)

    def pause(self) -> None:
        """Tasks are being listed: nobody begins before it is known who runs."""
        if self._is_on:
            self._shares.pause()

    def resume(self) -> None:
        if self._is_on:
            self._line_up()
            self._shares.resume()

    def _line_up(self) -> None:
        """In the order in which they began to wait: nobody asks for them before their next try, which is far off."""
        returning = sorted(self._returning.values(), key=_since)
        self._returning.clear()
        for live in returning:
            if self._shares.ask(live.identity.uid, self._demand(live), partial(self._wake, live)):
                self._wake(live)

    # -- Tasks of other replicas -------------------------------------------------------------------

    def seen_elsewhere(self, key: TaskKey, seen: ObservedObject) -> None:
        """Another replica drives this task; it counts while it runs."""
        if not self._is_on:
            return
        uid = seen.metadata.uid
        if self._elsewhere.get(key, uid) != uid:
            self.gone_elsewhere(key)
        try:
            action = _decode(seen.raw)
        except (msgspec.DecodeError, RecursionError):
            return
        if action.status.plugin_phase in _RUNNING_ELSEWHERE:
            self._elsewhere[key] = uid
            demand = Demand(action.spec.project, action.spec.domain, self._config.queue_of(seen.metadata.labels))
            self._shares.hold(uid, demand)
        else:
            self.gone_elsewhere(key)

    def gone_elsewhere(self, key: TaskKey) -> None:
        uid = self._elsewhere.pop(key, None)
        if uid is not None:
            self._shares.give_back(uid)

    def listed(self, namespace: str, keys: frozenset[tuple[str, str]]) -> None:
        """What a list does not show is gone."""
        for key in [key for key in self._elsewhere if key not in keys and namespace in ("", key.namespace)]:
            self.gone_elsewhere(key)

    def _demand(self, live: LiveTask) -> Demand:
        identity = live.identity
        return Demand(identity.project, identity.domain, self._config.queue_of(live.action.metadata.labels))


def _since(live: LiveTask) -> datetime:
    return live.state.queued_since or live.state.created_at
