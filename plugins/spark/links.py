"""The links of an application: logs of its driver, logs by its own name, and Spark's web UI."""

from __future__ import annotations

from typing import Final

import msgspec

from propfan._speedups.links import POD_NAME
from propfan.pluginmachinery.contexts import TaskContext
from propfan.pluginmachinery.loglinks import LinkPlan, LogLinks
from propfan.pluginmachinery.operators.job_links import link_values
from propfan.pluginmachinery.phases import LinkType, MessageFormat, TaskLog
from propfan.plugins.spark import application
from propfan.plugins.spark.application import NO_DRIVER, Status
from propfan.plugins.spark.config import SparkConfig

DRIVER_UI: Final = "Spark Driver UI"
HISTORY_UI: Final = "Spark History UI"

_TO_UI: Final = (MessageFormat.JSON, False, False, LinkType.DASHBOARD, True)

_FACTS: Final = ((True, False, False), (False, False, False), (False, True, False), (False, True, True))
"""Of the links of ``logs.mixed``, ``user``, ``system`` and ``all-user``; see ``_Plans.steps``."""

_CUSTOM_INFO_KEYS: Final = {DRIVER_UI: "sparkDriverUI", HISTORY_UI: "sparkHistoryUI"}


class _Plans(msgspec.Struct, frozen=True):
    """Links of one task; ``used`` are the slots that any of them needs.

    Attributes:
        steps: Plans that have links, with what is known of each: whether it needs the driver's pod, whether it is
            about the application instead of its driver, and whether its links are shown from the start.
    """

    steps: tuple[tuple[LinkPlan, bool, bool, bool], ...]
    used: int


class ApplicationLinks:
    """The links under one configuration."""

    _PLANS_KEPT: Final = 1024

    def __init__(self, config: SparkConfig) -> None:
        logs = config.logs
        self._logs = tuple(LogLinks(section) for section in (logs.mixed, logs.user, logs.system, logs.all_user))
        self._plans: dict[bytes, _Plans] = {}
        self._history_url = config.spark_history_server_url
        self.needs_environment = self._logs[0].needs_environment
        """Whether it makes a difference that a debugger runs in the driver."""

    def of_logs(self, ctx: TaskContext, name: str, driver_pod: str, *, has_debugger: bool) -> tuple[TaskLog, ...]:
        """Links to logs.

        Args:
            name: Of the application.
        """
        plans = self._plans.get(ctx.template_bytes) or self._plan(ctx)
        if not plans.steps:
            return ()
        values = link_values(ctx, driver_pod, plans.used)
        found: tuple[TaskLog, ...] = ()
        for plan, needs_pod, is_about_application, is_shown_at_once in plans.steps:
            if needs_pod and not driver_pod:
                continue
            if is_about_application:
                values[POD_NAME] = name
            links = plan.render_values(values, has_debugger=needs_pod and has_debugger)
            if is_shown_at_once:
                links = tuple([msgspec.structs.replace(link, show_while_pending=True) for link in links])
            found = found + links if found else links
        return found

    def _plan(self, ctx: TaskContext) -> _Plans:
        steps = []
        used = 0
        for logs, facts in zip(self._logs, _FACTS, strict=True):
            plan = logs.plan(ctx.template, uses_config=False)
            if plan:
                steps.append((plan, *facts))
                used |= plan.used
        if len(self._plans) >= self._PLANS_KEPT:
            del self._plans[next(iter(self._plans))]
        made = self._plans[ctx.template_bytes] = _Plans(tuple(steps), used)
        return made

    def to_ui(self, status: Status) -> TaskLog | None:
        """Spark's web UI: the driver's own while it runs, that of the history server afterwards."""
        state = status.state
        if state == application.RUNNING:
            address = (status.driver_info or NO_DRIVER).web_ui_ingress_address
            if not address:
                return None
            is_url = address.startswith(("http://", "https://"))
            uri, name = address if is_url else f"https://{address}", DRIVER_UI
        elif state in (application.COMPLETED, application.FAILED) and self._history_url and status.spark_application_id:
            uri, name = f"{self._history_url}/history/{status.spark_application_id}", HISTORY_UI
        else:
            return None
        return TaskLog(uri, name, *_TO_UI)


def custom_info(ui: TaskLog | None) -> dict[str, str]:
    """What is told of the UI beside the link."""
    return {} if ui is None else {_CUSTOM_INFO_KEYS[ui.name]: ui.uri}
