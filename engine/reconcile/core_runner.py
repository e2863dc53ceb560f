"""What a goal asks of a core plugin, which runs a task by itself."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec

from propfan.engine.reconcile.kubernetes_runner import observed
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.task_context import RoundContext
from propfan.engine.task_state import Event, Launched, ObjectGone, PluginData
from propfan.pluginmachinery.entries import LoadedCorePlugin


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
        transition = await self._plugin.handle(ctx)
        info = transition.info
        if not info.phase.is_terminal and info.recheck_at is None:
            info = info.rechecked_at(ctx.now + self._poll)
        data = ctx.new_state
        return msgspec.structs.replace(
            observed(info), plugin_data=PluginData(*data) if data is not None else None
        )

    async def remove(self, live: LiveTask, ctx: RoundContext, *, force: bool) -> Event:
        """Aborts the attempt when it was stopped from outside, and frees what it held."""
        if force:
            await self._plugin.abort(ctx)
        await self._plugin.finalize(ctx)
        return ObjectGone()
