"""The half of a ``ClusterPlugin`` that is about jobs, as a ``KubernetesPlugin``."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from propfan.pluginmachinery import names, objects
from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.entries import LoadedClusterPlugin, LoadedKubernetesPlugin
from propfan.pluginmachinery.errors import PermanentError
from propfan.pluginmachinery.kubernetes_plugin import (
    CLUSTER_LABEL,
    AbortBehavior,
    AbortOverride,
    BuiltObject,
    ObservedObject,
    Properties,
    RenderedObject,
)
from propfan.pluginmachinery.phases import PhaseInfo


class ClusterJobs:
    """Builds and reads jobs; each is built for the cluster that its task's ``get_cluster_name`` says."""

    def __init__(self, loaded: LoadedClusterPlugin) -> None:
        self._plugin: Final = loaded.plugin
        self._entry: Final = loaded.entry

    def cluster_name(self, ctx: TaskContext) -> str:
        """The plugin's answer.

        Raises:
            PermanentError: no object and no label can have that name; else as the plugin.
        """
        name = self._plugin.get_cluster_name(ctx)
        if name and not names.is_dns1123_label(name):
            problem = f"plugin '{self._entry.id}': get_cluster_name: '{name}' is no DNS-1123 label"
            raise PermanentError(objects.INVALID_PLUGIN_OBJECT, problem)
        return name

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> BuiltObject:
        return self._plugin.build_job_identity_resource(metadata)

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        """The job, labelled with its cluster."""
        name = self.cluster_name(ctx)
        built = await self._plugin.build_job_resource(ctx, name)
        rendered = objects.normalise(built, self._entry.watched, self._entry.id, "build_job_resource")
        if not name:
            return rendered
        metadata = rendered.metadata
        labelled = msgspec.structs.replace(metadata, labels={**metadata.labels, CLUSTER_LABEL: name})
        return msgspec.structs.replace(rendered, metadata=labelled)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        return await self._plugin.get_job_phase(ctx, resource)

    def get_properties(self) -> Properties:
        return self._plugin.get_properties()

    def is_terminal(self, resource: ObservedObject) -> bool:
        return self._plugin.is_terminal(resource)

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        return self._plugin.get_completion_time(resource)

    async def on_abort(self, ctx: TaskContext, resource: ObservedObject) -> AbortBehavior:
        """What the plugin does to a job whose task is aborted; to delete it is the default."""
        plugin = self._plugin
        return await plugin.on_abort(ctx, resource) if isinstance(plugin, AbortOverride) else AbortBehavior(delete=True)


def cluster_of(job: ObservedObject) -> str:
    """The shared cluster of a job; empty when it has its own."""
    return job.metadata.labels.get(CLUSTER_LABEL, "")


def jobs_of(loaded: LoadedClusterPlugin) -> LoadedKubernetesPlugin:
    """The plugin as far as its jobs go."""
    return LoadedKubernetesPlugin(loaded.entry, ClusterJobs(loaded), loaded.properties)
