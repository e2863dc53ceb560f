"""The phase of a task from the state of its SparkApplication and of the driver's pod."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
import structlog

from propfan.pluginmachinery import phases
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.errors import ApiError, DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.operators.job_links import EDITOR_NOT_READY, EDITOR_READY
from propfan.pluginmachinery.operators.job_objects import decode
from propfan.pluginmachinery.phases import (
    UNDEFINED,
    ContainerContext,
    LinkType,
    LogContext,
    Phase,
    PhaseInfo,
    PodLogContext,
    TaskInfo,
    TaskLog,
)
from propfan.pluginmachinery.podphase import PodPhases
from propfan.pluginmachinery.podspec.debugger import asks_for_debugger
from propfan.plugins.spark import application
from propfan.plugins.spark.application import NO_DRIVER, NO_STATE, NO_STATUS, ApplicationWithEnvironment, Status
from propfan.plugins.spark.build import CONTAINERS
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.links import DRIVER_UI, ApplicationLinks, custom_info
from propfan.plugins.spark.settings import DRIVER, EXECUTOR

FAILURE: Final = "DownstreamSystemError"
"""Code of every failure that the operator reports."""

_DRIVER_CONTAINERS: Final = (ContainerContext(CONTAINERS[DRIVER]),)
_EXECUTOR_CONTAINERS: Final = (ContainerContext(CONTAINERS[EXECUTOR]),)

logger = structlog.get_logger(__name__)


class ApplicationPhases:
    """The rules for one configuration."""

    def __init__(self, k8s: K8sConfig, config: SparkConfig) -> None:
        self._links = ApplicationLinks(config)
        self._pods = PodPhases(k8s)

    async def phase(self, ctx: PluginContext, resource: ObservedObject) -> PhaseInfo:
        """The verdict on a task's application.

        A driver that can not start, or that has failed, is a failure before the operator says so.

        Raises:
            DecodeError: the object is no SparkApplication.
        """
        needs_environment = self._links.needs_environment
        decoded = decode(application.FULL, resource) if needs_environment else decode(application.BRIEF, resource)
        status = decoded.status or NO_STATUS
        driver_pod = (status.driver_info or NO_DRIVER).pod_name
        ui = self._links.to_ui(status)
        logs = self._links.of_logs(ctx, resource.metadata.name, driver_pod, has_debugger=_has_debugger(decoded))
        info = TaskInfo(
            occurred_at=ctx.now,
            logs=logs if ui is None else (*logs, ui),
            log_context=_log_context(resource.metadata.namespace, driver_pod, status),
            custom_info=custom_info(ui),
        )
        of_driver = await self._phase_of_driver(ctx, driver_pod, info) if driver_pod else UNDEFINED
        if of_driver.phase.is_failure:
            return of_driver
        verdict = _with_readiness(_verdict(status, ctx.now, info))
        if of_driver.recheck_at is not None:
            verdict = verdict.rechecked_at(of_driver.recheck_at)
        return phases.bump_version_on_new_reason(verdict, ctx.plugin_state)

    async def _phase_of_driver(self, ctx: PluginContext, driver_pod: str, info: TaskInfo) -> PhaseInfo:
        """Nothing where the pod can not be read: what the operator says will do."""
        try:
            return await self._pods.failed_or_pending(ctx, driver_pod, CONTAINERS[DRIVER], info)
        except (ApiError, DecodeError) as error:
            logger.warning("can not read the driver's pod", pod=driver_pod, error=str(error))
            return UNDEFINED


def _verdict(status: Status, now: datetime, info: TaskInfo) -> PhaseInfo:
    state = status.application_state or NO_STATE
    match state.state:
        case "":
            return phases.queued(now, 0, "job queued", info)
        case "SUBMITTED" | "PENDING_SUBMISSION":
            return phases.initializing(now, 0, "job submitted", info)
        case application.SUBMISSION_FAILED:
            message = f"Spark Job  Submission Failed with Error: {state.error_message}"
            return phases.retryable_failure(FAILURE, message, now, info)
        case application.FAILED:
            return phases.retryable_failure(FAILURE, f"Spark Job Failed with Error: {state.error_message}", now, info)
        case application.COMPLETED:
            return phases.success(now, info)
        case _:
            return phases.running(now, 0, info)


def _with_readiness(verdict: PhaseInfo) -> PhaseInfo:
    """The verdict with links that say whether they lead anywhere, and a reason for each of them."""
    is_running = verdict.phase is Phase.RUNNING
    info = verdict.info
    assert info is not None
    logs: list[TaskLog] = []
    reasons = []
    for log in info.logs:
        if log.link_type is LinkType.DASHBOARD and DRIVER_UI in log.name:
            logs.append(log if log.ready is is_running else msgspec.structs.replace(log, ready=is_running))
            reasons.append("Spark driver UI is ready" if is_running else "Spark driver UI is not ready")
            continue
        if log.link_type is LinkType.IDE:
            reasons.append(EDITOR_READY if is_running else EDITOR_NOT_READY)
        logs.append(log)
    if not reasons:
        return verdict
    flagged = msgspec.structs.replace(verdict, info=msgspec.structs.replace(info, logs=tuple(logs)))
    return flagged.with_reason(", ".join(reasons))


def _log_context(namespace: str, driver_pod: str, status: Status) -> LogContext:
    """The driver, and the executors that have begun, by name."""
    pods = [PodLogContext(namespace, driver_pod, CONTAINERS[DRIVER], _DRIVER_CONTAINERS)]
    executors = status.executor_state
    if executors:
        pods += [
            PodLogContext(namespace, name, CONTAINERS[EXECUTOR], _EXECUTOR_CONTAINERS)
            for name in sorted(executors)
            if executors[name] not in application.UNSTARTED_EXECUTOR
        ]
    return LogContext(tuple(pods), driver_pod)


def _has_debugger(decoded: application.Application) -> bool:
    if not isinstance(decoded, ApplicationWithEnvironment) or decoded.spec is None or decoded.spec.driver is None:
        return False
    return asks_for_debugger({"name": v.name, "value": v.value} for v in decoded.spec.driver.env or ())
