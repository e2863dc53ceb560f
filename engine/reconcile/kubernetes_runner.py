"""What a goal asks of a Kubernetes plugin: create, observe and remove one object per attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from propfan.engine.cluster import Cluster, ObservedObject
from propfan.engine.reconcile import answers
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.task_context import RoundContext, labels_of
from propfan.engine.sharding import SHARD_LABEL
from propfan.engine.task_state import (
    Delayed,
    Event,
    Faulted,
    Launched,
    ObjectGone,
    ObjectLost,
    Postponed,
    Refused,
)
from propfan.pluginmachinery import object_metadata, objects
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.entries import LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    ThrottledError,
    TooLargeError,
    UnavailableError,
)
from propfan.pluginmachinery.kubernetes_plugin import AbortBehavior, AbortOverride
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError

_NEVER_AS_IT_IS: Final[dict[type[ApiError], str]] = {
    TooLargeError: "EntityTooLarge",
    InvalidError: "InvalidResource",
    BadRequestError: "BadRequest",
}
"""Answers that no retry can change, and the code the task fails with."""

_RECHECK_GONE_S: Final = 2.0
"""How often a terminating object is looked at, beside the watch that announces its end."""


class KubernetesRunner:
    """Runs the tasks of one plugin on one cluster. Every method is safe to repeat."""

    def __init__(self, loaded: LoadedKubernetesPlugin, cluster: Cluster, config: K8sConfig) -> None:
        self.loaded: Final = loaded
        self._plugin: Final = loaded.plugin
        self._kind: Final = loaded.entry.watched
        self._cluster: Final = cluster
        self._config: Final = config

    def object_name(self, ctx: RoundContext) -> str:
        return ctx.object_name(self.loaded.properties)

    async def launch(self, live: LiveTask, ctx: RoundContext) -> Event:
        """Creates the attempt's object, or finds the one that is there already."""
        await ctx.publish_template()
        built = await self._plugin.build_resource(ctx)
        rendered = objects.normalise(built, self._kind, self.loaded.entry.id, "build_resource")
        metadata = object_metadata.stamp(rendered.metadata, ctx.metadata, self._config, self.loaded.properties)
        try:
            created = await self._cluster.create(self._kind, rendered.to_json(metadata))
        except AlreadyExistsError:
            return await self._adopt(live, ctx) or Delayed(f"{self._target(ctx)} was there and is gone again", 0.1)
        except ForbiddenError as error:
            # A quota may be used up by the very object, made by an engine that died before it wrote that down.
            return await self._adopt(live, ctx) or refusal(error)
        except ApiError as error:
            return refusal(error)
        if live.learn(created) is created:
            live.must_look = False  # there is nothing to see yet
        return Launched()

    async def _adopt(self, live: LiveTask, ctx: RoundContext) -> Event | None:
        """What the object that is there already means; ``None`` when there is none."""
        found = await self._read(ctx)
        if found is None:
            return None
        if not self._is_own(found, live, ctx):
            owners = ", ".join(f"{o.kind} {o.name}" for o in found.metadata.owner_references) or "nobody"
            message = f"{found} exists already and belongs to {owners}: delete it, or choose another run or action name"
            return Refused(ExecutionError("ObjectNameTaken", message, ErrorKind.USER))
        if found.metadata.deletion_timestamp is not None:
            if found.metadata.finalizers:
                await self._patch_finalizers(found)
            return Delayed(f"waiting for the old {found} to terminate", _RECHECK_GONE_S)
        live.learn(await self._claim(found, ctx))
        live.must_look = True  # it may have come far without us
        return Launched()

    async def observe(self, live: LiveTask, ctx: RoundContext) -> Event:
        """The plugin's verdict on the object as last seen; "gone" is believed only after a live read."""
        is_stale = not live.object_was_deleted and _is_due_for_resync(live, ctx)
        seen = None if is_stale else self._known(live, ctx)
        if seen is None:
            read = await self._read(ctx)
            if read is None:
                return self._lost(ctx)
            seen = live.learn(await self._claim(read, ctx))
        info = answers.phase_info(await self._plugin.get_task_phase(ctx, seen), self.loaded.entry.id)
        if not info.phase.is_terminal:
            if live.object_was_deleted:
                now = await self._read(ctx)
                if now is None or now.metadata.uid != seen.metadata.uid:
                    live.object = None
                    return self._lost(ctx)
                live.learn(now)
                return await self.observe(live, ctx)
            if seen.metadata.deletion_timestamp is not None:
                return ObjectLost(
                    "UnexpectedObjectDeletion", f"object [{_path(seen)}] terminated unexpectedly in the background"
                )
        return answers.observed(info)

    def _known(self, live: LiveTask, ctx: RoundContext) -> ObservedObject | None:
        """The attempt's object as the watch showed it; not one of an earlier attempt."""
        seen = live.object
        return seen if seen is not None and seen.metadata.name == self.object_name(ctx) else None

    def _lost(self, ctx: RoundContext) -> Event:
        name = f"{ctx.metadata.namespace}/{self.object_name(ctx)}"
        return ObjectLost("ResourceDeletedExternally", f"resource not found, name [{name}]")

    async def remove(self, live: LiveTask, ctx: RoundContext, *, force: bool) -> Event:
        """Deletes the object of the attempt in ``ctx`` and waits until it is away.

        Without ``force`` an object that has ended by itself stays, rid of its finalizers.
        """
        found = None if live.object_was_deleted else self._known(live, ctx)
        found = found or await self._read(ctx)
        if found is None or not self._is_own(found, live, ctx):
            live.object = None
            return ObjectGone()
        if not force and self._plugin.is_terminal(found):
            return await self._finalize(live, found)
        if found.metadata.deletion_timestamp is None:
            behavior = AbortBehavior(delete=True)
            if isinstance(self._plugin, AbortOverride):
                behavior = await self._plugin.on_abort(ctx, found)
            await self._abort(found, behavior)
            if not behavior.delete:
                await self._release(found)
                return ObjectGone()
        elif found.metadata.finalizers:
            await self._patch_finalizers(found)
        left = await self._read(ctx)
        if left is None or left.metadata.uid != found.metadata.uid:
            live.object = None
            return ObjectGone()
        live.learn(left)
        return Delayed(f"waiting for {left} to terminate", _RECHECK_GONE_S)

    async def _finalize(self, live: LiveTask, found: ObservedObject) -> Event:
        if found.metadata.finalizers:
            await self._patch_finalizers(found)
        if self._config.delete_resource_on_finalize and not self.loaded.properties.disable_delete_resource_on_finalize:
            await self._delete(found)
            live.object = None
        return ObjectGone()

    async def _abort(self, found: ObservedObject, behavior: AbortBehavior) -> None:
        if behavior.delete:
            if found.metadata.finalizers:
                await self._patch_finalizers(found)
            await self._delete(found)
            return
        kind, namespace, name = behavior.resource or (found.kind, found.metadata.namespace, found.metadata.name)
        try:
            if behavior.patch is not None:
                await self._cluster.patch(kind, namespace, name, behavior.patch)
            else:
                whole = objects.normalise(behavior.update, kind, self.loaded.entry.id, "on_abort")
                await self._cluster.patch(kind, namespace, name, msgspec.json.decode(whole.to_json()))
        except NotFoundError:
            return
        except ApiError:
            if not behavior.delete_on_error:
                raise
            await self._delete(found)

    async def _delete(self, found: ObservedObject) -> None:
        meta = found.metadata
        try:
            await self._cluster.delete(found.kind, meta.namespace, meta.name, uid=meta.uid)
        except (NotFoundError, ConflictError):
            return

    async def _release(self, found: ObservedObject) -> None:
        """Takes the engine's own finalizer off an object that it will not look at again."""
        others = [name for name in found.metadata.finalizers if name != object_metadata.FINALIZER]
        if len(others) != len(found.metadata.finalizers):
            await self._patch_finalizers(found, others)

    async def _patch_finalizers(self, found: ObservedObject, left: Sequence[str] = ()) -> None:
        meta = found.metadata
        try:
            await self._cluster.patch(found.kind, meta.namespace, meta.name, {"metadata": {"finalizers": left or None}})
        except NotFoundError:
            return

    async def _read(self, ctx: RoundContext) -> ObservedObject | None:
        try:
            return await self._cluster.get(self._kind, ctx.metadata.namespace, self.object_name(ctx))
        except NotFoundError:
            return None

    async def _claim(self, found: ObservedObject, ctx: RoundContext) -> ObservedObject:
        """Puts the label on it by which the watch of the task's replica finds it, if another executor made it."""
        shard = ctx.metadata.labels.get(SHARD_LABEL)
        if shard is None or found.metadata.labels.get(SHARD_LABEL) == shard:
            return found
        meta = found.metadata
        try:
            return await self._cluster.patch(
                found.kind, meta.namespace, meta.name, {"metadata": {"labels": {SHARD_LABEL: shard}}}
            )
        except NotFoundError:
            return found

    def _is_own(self, found: ObservedObject, live: LiveTask, ctx: RoundContext) -> bool:
        """Whether it was made for this task: its owner tells; its labels where there is none, or not of our choice."""
        owners = found.metadata.owner_references
        if any(owner.uid == live.identity.uid for owner in owners):
            return True
        is_free = self._config.disable_inject_owner_references or self.loaded.properties.disable_inject_owner_references
        labels = found.metadata.labels
        own = labels_of(ctx.metadata).items()
        return (is_free or not owners) and all(labels.get(name) == value for name, value in own)

    def _target(self, ctx: RoundContext) -> str:
        return f"{self._kind.kind} {ctx.metadata.namespace}/{self.object_name(ctx)}"


def refusal(error: ApiError) -> Event:
    """What it means that an object could not be created."""
    match error:
        case ForbiddenError() | KindNotServedError():
            return Postponed(str(error), error.retry_after_s)
        case TooLargeError() | InvalidError() | BadRequestError():
            return Refused(ExecutionError(_NEVER_AS_IT_IS[type(error)], str(error), ErrorKind.USER))
        case ThrottledError() | UnavailableError() | ConflictError():  # a quota's count may be in conflict
            return Delayed(str(error), error.retry_after_s)
        case _ if error.status >= 500:
            return Delayed(str(error), error.retry_after_s)
    return Faulted(error.reason, f"failed to create resource: {error}")


def _is_due_for_resync(live: LiveTask, ctx: RoundContext) -> bool:
    """Nothing was heard for so long that what the watch told last is not believed any more."""
    observed_at = live.state.observed_at
    return observed_at is not None and (ctx.now - observed_at).total_seconds() >= live.state.limits.resync_s


def _path(seen: ObservedObject) -> str:
    return f"{seen.metadata.namespace}/{seen.metadata.name}"
