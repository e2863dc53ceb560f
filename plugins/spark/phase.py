"""The phase of a task from the state of its SparkApplication and of the driver's pod."""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from propfan.pluginmachinery import exit_codes, phases
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.errors import ApiError, DecodeError
from propfan.pluginmachinery.kubernetes_plugin import ObservedObject
from propfan.pluginmachinery.operators.job_links import EDITOR_NOT_READY, EDITOR_READY
from propfan.pluginmachinery.operators.job_objects import decode
from propfan.pluginmachinery.phases import (
    UNDEFINED,
    ContainerContext,
    ExecutionError,
    LinkType,
    LogContext,
    Phase,
    PhaseInfo,
    PodLogContext,
    TaskInfo,
)
from propfan.pluginmachinery.podphase import PodPhases, decode_pod
from propfan.pluginmachinery.podspec.debugger import asks_for_debugger
from propfan.plugins.spark import application
from propfan.plugins.spark.application import NO_DRIVER, NO_STATE, NO_STATUS, Status
from propfan.plugins.spark.build import CONTAINERS
from propfan.plugins.spark.config import SparkConfig
from propfan.plugins.spark.links import DRIVER_UI, ApplicationLinks, custom_info
from propfan.plugins.spark.settings import DRIVER, EXECUTOR

FAILURE: Final = "DownstreamSystemError"
"""Code of every failure that the operator reports."""

_DASHBOARD: Final = LinkType.DASHBOARD
_IDE: Final = LinkType.IDE
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
        status, has_debugger = self._decode(resource)
        driver_pod = (status.driver_info or NO_DRIVER).pod_name
        recheck_at = None
        if driver_pod and (of_driver := await self._phase_of_driver(ctx, driver_pod)) is not UNDEFINED:
            if of_driver.phase.is_failure:
                return self._with_info(of_driver, ctx, resource, status, has_debugger=has_debugger)
            recheck_at = of_driver.recheck_at

        phase, reason, error = _verdict(status)
        is_running = phase is Phase.RUNNING
        ui = self._links.to_ui(status)
        logs = self._links.of_logs(ctx, resource.metadata.name, driver_pod, has_debugger=has_debugger)
        reasons = [reason] if reason else []
        if ui is not None:
            logs = (*logs, ui)
        for index, log in enumerate(logs):
            link_type = log.link_type
            if link_type is _DASHBOARD and DRIVER_UI in log.name:
                reasons.append("Spark driver UI is ready" if is_running else "Spark driver UI is not ready")
                if log.ready is not is_running:
                    logs = (*logs[:index], msgspec.structs.replace(log, ready=is_running), *logs[index + 1 :])
            elif link_type is _IDE:
                reasons.append(EDITOR_READY if is_running else EDITOR_NOT_READY)
        context = _log_context(resource.metadata.namespace, driver_pod, status)
        info = TaskInfo(ctx.now, None, logs, context, custom_info(ui))
        verdict = PhaseInfo(phase, 0, ", ".join(reasons), error, info, recheck_at=recheck_at)
        return phases.bump_version_on_new_reason(verdict, ctx.plugin_state)

    def _decode(self, resource: ObservedObject) -> tuple[Status, bool]:
        """The status, and whether a debugger runs in the driver where that matters."""
        if not self._links.needs_environment:
            return application.STATUS.decode(resource) or NO_STATUS, False
        decoded = decode(application.WITH_ENVIRONMENT, resource)
        driver = None if decoded.spec is None else decoded.spec.driver
        variables = () if driver is None else driver.env or ()
        return decoded.status or NO_STATUS, asks_for_debugger({"name": v.name, "value": v.value} for v in variables)

    async def _phase_of_driver(self, ctx: PluginContext, driver_pod: str) -> PhaseInfo:
        """Nothing where the pod can not be read: what the operator says will do."""
        try:
            raw = await ctx.kubernetes.get_pod(driver_pod)
            if raw is None:
                return UNDEFINED
            pod = decode_pod(raw, f"Pod {ctx.metadata.namespace}/{driver_pod}")
        except (ApiError, DecodeError) as error:
            logger.warning("can not read the driver's pod", pod=driver_pod, error=str(error))
            return UNDEFINED
        return exit_codes.charge(self._pods.judge(pod, ctx.now, CONTAINERS[DRIVER]), pod)

    def _with_info(
        self, verdict: PhaseInfo, ctx: PluginContext, resource: ObservedObject, status: Status, *, has_debugger: bool
    ) -> PhaseInfo:
        """A failure of the driver's pod with all that is known; of one that waits only since when."""
        if verdict.cleanup_on_failure:
            return verdict
        ui = self._links.to_ui(status)
        driver_pod = (status.driver_info or NO_DRIVER).pod_name
        logs = self._links.of_logs(ctx, resource.metadata.name, driver_pod, has_debugger=has_debugger)
        context = _log_context(resource.metadata.namespace, driver_pod, status)
        info = TaskInfo(ctx.now, None, logs if ui is None else (*logs, ui), context, custom_info(ui))
        return msgspec.structs.replace(verdict, info=info)


def _verdict(status: Status) -> tuple[Phase, str, ExecutionError | None]:
    """What the operator says: the phase with a reason or an error."""
    state = status.application_state or NO_STATE
    match state.state:
        case "":
            return Phase.QUEUED, "job queued", None
        case "SUBMITTED" | "PENDING_SUBMISSION":
            return Phase.INITIALIZING, "job submitted", None
        case "SUSPENDING" | "SUSPENDED":
            return Phase.QUEUED, "job is suspended", None
        case "RESUMING":
            return Phase.QUEUED, "job is resumed", None
        case application.SUBMISSION_FAILED:
            message = f"Spark Job  Submission Failed with Error: {state.error_message}"
            return Phase.RETRYABLE_FAILURE, "", ExecutionError(FAILURE, message)
        case application.FAILED:
            message = f"Spark Job Failed with Error: {state.error_message}"
            return Phase.RETRYABLE_FAILURE, "", ExecutionError(FAILURE, message)
        case application.COMPLETED:
            return Phase.SUCCESS, "", None
        case _:
            return Phase.RUNNING, "", None


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
