"""What a goal asks of a plugin whose jobs share clusters: a cluster that takes jobs, then a job on it."""

from __future__ import annotations

from typing import Final

import msgspec

from propfan.engine.cluster import Cluster, ObservedObject
from propfan.engine.reconcile.kubernetes_runner import KubernetesRunner, refusal
from propfan.engine.reconcile.live_task import LiveTask
from propfan.engine.reconcile.shared_clusters import SHARED_LABEL, ClusterKey, SharedClusters, is_going
from propfan.engine.reconcile.task_context import RoundContext
from propfan.engine.task_state import Delayed, Event, ObjectGone, ObjectLost, Observed, Postponed, Refused
from propfan.pluginmachinery import objects
from propfan.pluginmachinery.cluster_jobs import ClusterJobs, cluster_of
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.entries import LoadedClusterPlugin, LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import AlreadyExistsError, ApiError, NotFoundError
from propfan.pluginmachinery.kubernetes_plugin import LAST_USED_ANNOTATION
from propfan.pluginmachinery.phases import ErrorKind, ExecutionError, PhaseInfo

_LOOK_AGAIN_S: Final = 30.0
"""At a cluster that a task waits for, beside the watch that tells when it is ready."""

_CREATED: Final = "it was created just now"


class ClusterRunner(KubernetesRunner):
    """Runs the tasks of one plugin; those that share no cluster as ``KubernetesRunner`` does."""

    def __init__(
        self, loaded: LoadedClusterPlugin, cluster: Cluster, config: K8sConfig, clusters: SharedClusters
    ) -> None:
        jobs = _Jobs(loaded)
        super().__init__(LoadedKubernetesPlugin(loaded.entry, jobs, loaded.properties), cluster, config)
        self._jobs: Final = jobs
        self._clusters: Final = clusters
        self._shared: Final = loaded.plugin
        self._cluster_kind: Final = loaded.cluster_watched

    async def launch(self, live: LiveTask, ctx: RoundContext) -> Event:
        """Takes the shared cluster, or creates it; once it takes jobs, creates the job."""
        name = self._jobs.cluster_name(ctx)
        if not name:
            return await super().launch(live, ctx)
        key = (ctx.metadata.namespace, name)
        self._clusters.use(live, key)
        held = await self._hold(ctx, key)
        if isinstance(held, Event):
            return held
        if not self._shared.is_cluster_ready(held):
            ctx.lend_pods(name)
            why = await self._shared.check_cluster(ctx, held)
            return Postponed(f"waiting for {held}: {why}" if why else f"waiting for {held}", _LOOK_AGAIN_S)
        return await super().launch(live, ctx)

    async def _hold(self, ctx: RoundContext, key: ClusterKey) -> ObservedObject | Event:
        """The cluster, marked as used if it takes jobs already; or what comes of there being none."""
        seen = self._clusters.known(key)
        try:
            if seen is None:
                seen = await self._cluster.get(self._cluster_kind, *key)
                if seen.metadata.labels.get(SHARED_LABEL) != self.loaded.entry.id:
                    message = f"{seen} exists already and is no shared cluster of propfan: delete it"
                    return Refused(ExecutionError("ObjectNameTaken", message, ErrorKind.USER))
            if not is_going(seen) and self._shared.is_cluster_ready(seen):
                seen = await self._clusters.take(key)
        except NotFoundError:
            return await self._create(ctx, key)
        if is_going(seen):
            return Postponed(f"waiting for the old {seen} to go", _LOOK_AGAIN_S)
        return seen

    async def _create(self, ctx: RoundContext, key: ClusterKey) -> Event:
        entry, config = self.loaded.entry, self._config
        built = await self._shared.build_cluster_resource(ctx)
        rendered = objects.normalise(built, self._cluster_kind, entry.id, "build_cluster_resource")
        own = rendered.metadata
        used = msgspec.to_builtins(ctx.now)
        metadata = msgspec.structs.replace(
            own,
            namespace=key[0],
            name=key[1],
            labels={**config.default_labels, **own.labels, SHARED_LABEL: entry.id},
            annotations={**config.default_annotations, **own.annotations, LAST_USED_ANNOTATION: used},
        )
        try:
            created = await self._cluster.create(self._cluster_kind, rendered.to_json(metadata))
        except AlreadyExistsError as error:
            return Delayed(str(error), 0.1)  # another task was faster: it is found now
        except ApiError as error:
            return refusal(error)
        return Postponed(f"waiting for {created}: {_CREATED}", _LOOK_AGAIN_S)

    async def observe(self, live: LiveTask, ctx: RoundContext) -> Event:
        """As for any object; but a job that has lost its cluster is lost."""
        event = await super().observe(live, ctx)
        name = "" if live.object is None else cluster_of(live.object)
        if name and isinstance(event, Observed) and not event.phase.is_terminal:
            key = (ctx.metadata.namespace, name)
            self._clusters.use(live, key)
            if await self._clusters.is_lost(key):
                kind = self._cluster_kind.kind
                return ObjectLost("SharedClusterLost", f"{kind} {key[0]}/{name}, which ran the job, is gone")
        return event

    async def remove(self, live: LiveTask, ctx: RoundContext, *, force: bool) -> Event:
        """As for any object; the cluster stays until it is idle."""
        event = await super().remove(live, ctx, force=force)
        if isinstance(event, ObjectGone):
            self._clusters.forget(live)
        return event


class _Jobs(ClusterJobs):
    """Jobs see the pods of their cluster."""

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        if (name := cluster_of(resource)) and isinstance(ctx, RoundContext):
            ctx.lend_pods(name)
        return await super().get_task_phase(ctx, resource)
