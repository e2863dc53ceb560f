"""The links of an application: logs of its driver, logs by its own name, and Spark's web UI."""

from __future__ import annotations

from typing import Final

import msgspec

from propfan._speedups.links import POD_NAME
from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.loglinks import LogLinks
from propfan.pluginmachinery.operators.job_links import log_input
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog
from propfan.plugins.spark import application
from propfan.plugins.spark.application import NO_DRIVER, Status
from propfan.plugins.spark.config import SparkConfig

DRIVER_UI: Final = "Spark Driver UI"
HISTORY_UI: Final = "Spark History UI"

_CUSTOM_INFO_KEYS: Final = {DRIVER_UI: "sparkDriverUI", HISTORY_UI: "sparkHistoryUI"}


class ApplicationLinks:
    """The links under one configuration."""

    def __init__(self, config: SparkConfig) -> None:
        logs = config.logs
        self._mixed, self._user = LogLinks(logs.mixed), LogLinks(logs.user)
        self._system, self._all_user = LogLinks(logs.system), LogLinks(logs.all_user)
        self._history_url = config.spark_history_server_url
        self.needs_environment = self._mixed.needs_environment
        """Whether it makes a difference that a debugger runs in the driver."""

    def of_logs(self, ctx: PluginContext, name: str, driver_pod: str, *, has_debugger: bool) -> tuple[TaskLog, ...]:
        """Links to logs.

        Args:
            name: Of the application.
        """
        values = log_input(ctx, driver_pod).values()
        found: tuple[TaskLog, ...] = ()
        if driver_pod:
            mixed = self._mixed.plan_for(ctx, uses_config=False)
            found = mixed.render_values(values, has_debugger=has_debugger)
        found += self._user.plan_for(ctx, uses_config=False).render_values(values)
        values[POD_NAME] = name
        found += self._system.plan_for(ctx, uses_config=False).render_values(values)
        from_the_start = self._all_user.plan_for(ctx, uses_config=False).render_values(values)
        return found + tuple(msgspec.structs.replace(log, show_while_pending=True) for log in from_the_start)

    def to_ui(self, status: Status) -> TaskLog | None:
        """Spark's web UI: the driver's own while it runs, that of the history server afterwards."""
        state = status.state
        address = (status.driver_info or NO_DRIVER).web_ui_ingress_address
        if state == application.RUNNING and address:
            is_url = address.startswith(("http://", "https://"))
            uri, name = address if is_url else f"https://{address}", DRIVER_UI
        elif state in (application.COMPLETED, application.FAILED) and self._history_url and status.spark_application_id:
            uri, name = f"{self._history_url}/history/{status.spark_application_id}", HISTORY_UI
        else:
            return None
        return TaskLog(uri, name, MessageFormat.JSON, link_type=LinkType.DASHBOARD, ready=True)


def custom_info(ui: TaskLog | None) -> dict[str, str]:
    """What is told of the UI beside the link."""
    return {} if ui is None else {_CUSTOM_INFO_KEYS[ui.name]: ui.uri}
