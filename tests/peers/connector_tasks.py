"""Tasks of Flyte 2's SDK that the example's connector runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import flyte
from flyte.connectors import AsyncConnectorExecutorMixin
from flyte.extend import TaskTemplate
from flyte.models import NativeInterface, SerializationContext

from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.connector_service.flyte_tasks import LocalConnectorMixin
from tests.peers.flytekit_environment import REPOSITORY

with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of pydantic, which it uses
    from flyte.io import File

EXAMPLE = REPOSITORY / "examples" / "training_connector"
MODULE = "training_connector:TrainingConnector"
OUTPUTS = {"accuracy": float, "model": File}

if str(EXAMPLE) not in sys.path:
    sys.path.append(str(EXAMPLE))


class Training(TaskTemplate[Any, Any, Any]):
    """What a package for users of the connector would have."""

    def __init__(self, name: str, *, custom: Mapping[str, Any] | None = None, **settings: Any) -> None:
        interface = NativeInterface({"note": (str, "")}, OUTPUTS)
        super().__init__(name=name, interface=interface, task_type="train-classifier", image=None, **settings)
        self._custom = dict(custom or {})

    def custom_config(self, sctx: SerializationContext) -> dict[str, Any]:
        return self._custom


class LocalTraining(LocalConnectorMixin, Training):
    """Run by propfan's mixin."""

    connector_modules = (MODULE,)
    poll_interval_s: ClassVar[float] = 0.05


class SdkTraining(AsyncConnectorExecutorMixin, Training):
    """Run by the SDK's own mixin."""


def task(kind: type[Training], folder: str = "", **settings: Any) -> Training:
    """A task that may be run, whose jobs lie in ``folder``."""
    made = kind("train", **settings)
    if folder:
        config = ConnectorServiceConfig(entry_points=False, connectors={"training": {"folder": folder}})
        type(made).connector_config = config  # type: ignore[attr-defined]
    flyte.TaskEnvironment.from_task("training", made)
    return made


if __name__ == "__main__":  # a run that is interrupted: python -m tests.peers.connector_tasks FOLDER
    flyte.with_runcontext(mode="local").run(task(LocalTraining, sys.argv[1], custom={"epochs": 10_000}))
