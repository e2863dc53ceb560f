"""``SparkApplication`` objects of the Spark operator, as far as a task's phase depends on them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final

import msgspec

from propfan.pluginmachinery.kubernetes_plugin import Kind
from propfan.pluginmachinery.operators.job_objects import StatusDecoder

SPARK_APPLICATION: Final = Kind("sparkoperator.k8s.io", "v1beta2", "SparkApplication", "sparkapplications")

COMPLETED: Final = "COMPLETED"
FAILED: Final = "FAILED"
SUBMISSION_FAILED: Final = "SUBMISSION_FAILED"
RUNNING: Final = "RUNNING"

TERMINAL: Final = frozenset({COMPLETED, FAILED, SUBMISSION_FAILED})

UNSTARTED_EXECUTOR: Final = frozenset({"PENDING", "UNKNOWN"})

Time = Annotated[datetime, msgspec.Meta(tz=True)] | None


class _Part(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A piece of an application; an unset one is what Go's types have there."""


class ApplicationState(_Part, frozen=True):
    state: str = ""
    error_message: str = ""


class DriverInfo(_Part, frozen=True):
    pod_name: str = ""
    web_ui_ingress_address: str = msgspec.field(default="", name="webUIIngressAddress")


class Status(_Part, frozen=True):
    """``executor_state`` is the state of each executor's pod."""

    application_state: ApplicationState | None = None
    driver_info: DriverInfo | None = None
    executor_state: Mapping[str, str] | None = None
    spark_application_id: str = ""
    termination_time: Time = None
    last_submission_attempt_time: Time = None

    @property
    def state(self) -> str:
        """Of the application; empty before the operator has seen it."""
        return "" if self.application_state is None else self.application_state.state


class Variable(_Part, frozen=True):
    name: str = ""
    value: str = ""


class Driver(_Part, frozen=True):
    env: tuple[Variable, ...] | None = None


class Spec(_Part, frozen=True):
    driver: Driver | None = None


class ApplicationWithEnvironment(_Part, frozen=True):
    """With what says whether a debugger runs in the driver."""

    status: Status | None = None
    spec: Spec | None = None


STATUS: Final = StatusDecoder(Status)
WITH_ENVIRONMENT: Final = msgspec.json.Decoder(ApplicationWithEnvironment)

NO_STATUS: Final = Status()
NO_STATE: Final = ApplicationState()
NO_DRIVER: Final = DriverInfo()
