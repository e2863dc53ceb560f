"""The pod plugin: tasks that are one Pod each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from propfan.pluginmachinery import exit_codes, podphase
from propfan.pluginmachinery.config import DEFAULT_STORAGE, K8sConfig, StorageConfig
from propfan.pluginmachinery.contexts import PluginContext, PodTemplateStore, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.kubernetes_plugin import POD, ObjectMeta, ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.loglinks import LogsConfig
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.pluginmachinery.podspec.build import PodSpecBuilder
from propfan.plugins.pod import build


class PodPlugin:
    """Runs ``container``, ``python``, ``raw-container`` and ``sidecar`` tasks.

    Args:
        storage: The engine's, for the co-pilot of raw containers; ``logger_level`` likewise.
        process_env: The engine's own environment, for ``default-env-vars-from-env``.
        charges_exit_codes: See ``PodConfig``.
    """

    def __init__(
        self,
        k8s: K8sConfig,
        logs: LogsConfig,
        pod_templates: PodTemplateStore | None = None,
        *,
        storage: StorageConfig = DEFAULT_STORAGE,
        logger_level: int = 3,
        process_env: Mapping[str, str] | None = None,
        charges_exit_codes: bool = False,
    ) -> None:
        self._builder = PodSpecBuilder(
            k8s, pod_templates, storage=storage, logger_level=logger_level, process_env=process_env
        )
        self._plans = build.plans(self._builder)
        self._charges_exit_codes = charges_exit_codes
        self._phases = podphase.PodPhases(k8s, logs)

    def get_properties(self) -> Properties:
        return Properties()

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(POD.api_version, POD.kind, ObjectMeta(), b"")

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        return await self._plans.build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``DecodeError`` for an object that is no pod."""
        info = self._phases.phase_of_task(ctx, resource)
        if self._charges_exit_codes and info.phase.is_failure:
            return exit_codes.charge(info, self._phases.decode(resource))
        return info

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether all containers have ended. Raises ``DecodeError``."""
        return podphase.is_terminal(self._phases.decode(resource))

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the last container ended, as far as it is known. Raises ``DecodeError``."""
        return podphase.completion_time(self._phases.decode(resource))
