"""The Spark plugin: tasks that are one SparkApplication each."""

from __future__ import annotations

from datetime import datetime

import structlog

from propfan.pluginmachinery.contexts import PluginContext, TaskContext, TaskExecutionMetadata
from propfan.pluginmachinery.entries import SetupContext
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject, Properties, RenderedObject
from propfan.pluginmachinery.operators.job_objects import NO_METADATA, pod_spec_builder
from propfan.pluginmachinery.phases import PhaseInfo
from propfan.plugins.spark import application, build
from propfan.plugins.spark.application import NO_STATUS, SPARK_APPLICATION, Status
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.phase import ApplicationPhases
from propfan.plugins.spark.pod_template_support import PodTemplateSupport

logger = structlog.get_logger(__name__)


class SparkPlugin:
    """Runs ``spark`` tasks."""

    def __init__(self, setup: SetupContext) -> None:
        """Raises ``ConfigError`` for a malformed section."""
        config = setup.section("spark", SparkConfig)
        builder = pod_spec_builder(setup)
        self._plans = {
            takes_templates: build.plans(builder, config, takes_templates=takes_templates)
            for takes_templates in (False, True)
        }
        self._support = None
        if config.enable_pod_template:
            timeout_s = config.pod_template_detection_timeout.seconds
            self._support = PodTemplateSupport(setup.crds, timeout_s=timeout_s)
        self._phases = ApplicationPhases(setup.k8s, config)

    def get_properties(self) -> Properties:
        return Properties()

    def build_identity_resource(self, metadata: TaskExecutionMetadata) -> RenderedObject:
        return RenderedObject(SPARK_APPLICATION.api_version, SPARK_APPLICATION.kind, NO_METADATA, b"")

    async def build_resource(self, ctx: TaskContext) -> RenderedObject:
        takes_templates = self._support is not None and await self._support.is_given(ctx.now)
        if not takes_templates and build.may_bring_pods(ctx.template_bytes) and build.brings_pods(ctx.template):
            logger.warning(
                "the task's own driver and executor pods are not used",
                task=str(ctx.metadata.owner_id),
                why="plugins.spark.enable-pod-template is false"
                if self._support is None
                else "the cluster's SparkApplication has no field spec.driver.template; its operator is older than 2",
            )
        return await self._plans[takes_templates].build(ctx)

    async def get_task_phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """Raises ``DecodeError`` for an object that is no SparkApplication."""
        return await self._phases.phase(ctx, resource)

    def is_terminal(self, resource: ObservedObject) -> bool:
        """Whether the operator is done with it. Raises ``DecodeError``."""
        return _status(resource).state in application.TERMINAL

    def get_completion_time(self, resource: ObservedObject) -> datetime | None:
        """When the application ended; before, when it was last submitted or made. Raises ``DecodeError``."""
        status = _status(resource)
        return status.termination_time or status.last_submission_attempt_time or resource.metadata.creation_timestamp


def _status(resource: ObservedObject) -> Status:
    return application.STATUS.decode(resource) or NO_STATUS
