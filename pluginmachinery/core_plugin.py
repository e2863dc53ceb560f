"""The contract of plugins that run a task by themselves, without an object in the cluster.

A round is one call of ``handle``. Between rounds the engine keeps nothing of the plugin but the
bytes it stored with ``ctx.put_state``, so a plugin that keeps everything there survives a restart
and a move to another replica. Calls for one task never overlap; each may be repeated.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

from propfan.pluginmachinery.contexts import CoreContext
from propfan.pluginmachinery.phases import Transition


class CoreProperties(msgspec.Struct, frozen=True):
    """How the engine treats a plugin's tasks.

    Attributes:
        disable_node_level_caching: The plugin looks after the task's cache itself; the engine
            neither looks up nor stores its outputs.
        generated_name_max_length: Longer names are replaced by a hash of fixed length; at least 8.
    """

    disable_node_level_caching: bool = False
    generated_name_max_length: int | None = None


@runtime_checkable
class CorePlugin(Protocol):
    """How one family of task types runs."""

    async def handle(self, ctx: CoreContext) -> Transition:
        """Takes the task one step further and says where it stands; never waits for the task.

        Called until it answers with a terminal phase: after each ``recheck_at``, and at the
        engine's own pace where there is none.

        Raises:
            BadTaskSpecificationError: the template can not be run; the task fails for good.
            TransientError, StorageError: something outside is down; the round is tried again, free of charge.
            TaskError, any other exception: counted against the engine's own retries.
        """
        ...

    async def abort(self, ctx: CoreContext) -> None:
        """Stops whatever runs for the task; succeeds when nothing does. ``finalize`` follows."""
        ...

    async def finalize(self, ctx: CoreContext) -> None:
        """Frees what the task held; called after its last ``handle`` or ``abort``, even of a task never handled."""
        ...

    def get_properties(self) -> CoreProperties: ...
