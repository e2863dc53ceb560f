"""What a goal asks of a core plugin, which runs a task by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import msgspec

from propfan.engine.reconcile import answers
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.task_context import RoundContext
from propfan.engine.task_state import Event, Launched, ObjectGone, Outcome, PluginData
from propfan.pluginmachinery.entries import LoadedCorePlugin
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.phases import Transition

MAX_STATE_BYTES: Final = 256 * 1024
"""Of what a plugin keeps for a task: it is a part of the TaskAction, for all of which etcd takes 1.5 MiB."""

_BAD_STATE: Final = "InvalidPluginState"

_SOONEST: Final = timedelta(milliseconds=50)
"""A plugin that wants to be asked again at once, each time, must not keep a worker busy."""


class CoreRunner:
    """Runs the tasks of one core plugin. Every method is safe to repeat."""

    def __init__(self, loaded: LoadedCorePlugin, poll_s: float) -> None:
        self.loaded: Final = loaded
        self._plugin: Final = loaded.plugin
        self._poll: Final = timedelta(seconds=poll_s)

    async def launch(self, live: LiveTask, ctx: RoundContext) -> Event:
        live.must_look = True  # there is no object whose first change would call for it
        return Launched(f"handed to plugin {self.loaded.entry.id}")

    async def observe(self, live: LiveTask, ctx: RoundContext) -> Event:
        """The plugin's own word on where the task stands.

        Raises:
            TaskError: what it returned or stored is not what the contract says.
        """
        transition: Any = await self._plugin.handle(ctx)
        if not isinstance(transition, Transition):
            raise self._wrong("InvalidPhaseInfo", f"is a {type(transition).__name__}, not a Transition")
        info = answers.phase_info(transition.info, self.loaded.entry.id)
        if not info.phase.is_terminal:
            wanted = info.recheck_at or ctx.now + self._poll
            info = info.rechecked_at(max(wanted, ctx.now + _SOONEST))
        return msgspec.structs.replace(answers.observed(info), plugin_data=self._changed_data(live, ctx))

    def _changed_data(self, live: LiveTask, ctx: RoundContext) -> PluginData | None:
        """What the plugin stored in this round, when it is something new."""
        stored: Any = ctx.new_state
        if stored is None:
            return None
        version, content = stored
        if not isinstance(version, int) or not isinstance(content, bytes):
            kinds = f"{type(version).__name__} and {type(content).__name__}"
            raise self._wrong(_BAD_STATE, f"put_state takes a version and bytes, not {kinds}")
        if len(content) > MAX_STATE_BYTES:
            raise self._wrong(_BAD_STATE, f"put_state takes at most {MAX_STATE_BYTES} bytes, not {len(content)}")
        data = PluginData(version, content)
        return data if data != live.state.plugin_data else None

    def _wrong(self, code: str, problem: str) -> TaskError:
        return TaskError(code, f"the answer of plugin '{self.loaded.entry.id}': {problem}")

    async def remove(self, live: LiveTask, ctx: RoundContext, *, force: bool) -> Event:
        """Frees what the attempt held. Unless it has succeeded it is aborted first: who knows what still runs."""
        if force or live.state.outcome is not Outcome.COMPLETED:
            await self._plugin.abort(ctx)
        await self._plugin.finalize(ctx)
        return ObjectGone()
