"""A program for flytekit's environment: drives connectors as flytekit does, and says how it went as JSON.

python -m tests.peers.flytekit_client served ADDRESS | local FOLDER | registered FOLDER | interrupted FOLDER
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.service import agent_pb2_grpc
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.base_task import PythonTask, TaskMetadata
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.interface import Interface
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import (
    AsyncConnectorExecutorMixin,
    SyncConnectorExecutorMixin,
    is_terminal_phase,
)
from flytekit.models.literals import LiteralMap
from flytekit.tools.translator import get_serializable
from flytekit.types.file import FlyteFile

REPOSITORY = Path(__file__).resolve().parents[2]

sys.path.append(str(REPOSITORY / "examples" / "training_connector"))


class Task(PythonTask[Any]):  # type: ignore[misc] # flytekit is not typed here
    """A task with a connector, of any type."""

    def __init__(
        self, task_type: str, custom: Mapping[str, Any], inputs: Any, outputs: Any, timeout_s: float | None = None
    ) -> None:
        metadata = TaskMetadata(timeout=timedelta(seconds=timeout_s) if timeout_s else None)
        super().__init__(
            task_type=task_type,
            name=f"peers.{task_type}",
            task_config=None,
            interface=Interface(inputs, outputs),
            metadata=metadata,
        )
        self._custom_given = dict(custom)

    def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
        return self._custom_given


class TrainingTask(AsyncConnectorExecutorMixin, Task):  # type: ignore[misc]
    pass


class GreetTask(SyncConnectorExecutorMixin, Task):  # type: ignore[misc]
    pass


OUTPUTS: Any = {"accuracy": float, "model": FlyteFile["json"]}
TRAINING: Any = ("train-classifier", {"epochs": 20}, {}, OUTPUTS)
GREETING: Any = ("greet", {}, {"name": str}, {"greeting": str})


def template_of(task: Task) -> Any:
    settings = SerializationSettings(image_config=ImageConfig(), project="p", domain="d", version="v1")
    return get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()


def natives(task: Task, literals: Any) -> dict[str, Any]:
    context = FlyteContextManager.current_context()
    found: dict[str, Any] = TypeEngine.literal_map_to_kwargs(
        context, LiteralMap.from_flyte_idl(literals), task.python_interface.outputs
    )
    return found


def served(address: str) -> dict[str, Any]:
    """As FlytePropeller does it, with flytekit's types at both ends."""
    channel, stubs = grpc.insecure_channel(address), cast("Any", agent_pb2_grpc)
    agents = stubs.AgentMetadataServiceStub(channel).ListAgents(agent_pb2.ListAgentsRequest()).agents
    kinds = {category.name: agent.is_sync for agent in agents for category in agent.supported_task_categories}

    training = TrainingTask(*TRAINING)
    stub = stubs.AsyncAgentServiceStub(channel)
    created = stub.CreateTask(
        agent_pb2.CreateTaskRequest(template=template_of(training), output_prefix="file:///tmp/x")
    )
    category = agent_pb2.TaskCategory(name="train-classifier")
    asked = agent_pb2.GetTaskRequest(resource_meta=created.resource_meta, task_category=category)
    while not is_terminal_phase((resource := stub.GetTask(asked).resource).phase):
        continue
    trained = natives(training, resource.outputs)
    stub.DeleteTask(agent_pb2.DeleteTaskRequest(resource_meta=created.resource_meta, task_category=category))

    greeting = GreetTask(*GREETING)
    context = FlyteContextManager.current_context()
    inputs = TypeEngine.dict_to_literal_map(context, {"name": "peer"}).to_flyte_idl()
    header = agent_pb2.CreateRequestHeader(template=template_of(greeting), output_prefix="file:///tmp/x")
    requests = [agent_pb2.ExecuteTaskSyncRequest(header=header), agent_pb2.ExecuteTaskSyncRequest(inputs=inputs)]
    (answer,) = stubs.SyncAgentServiceStub(channel).ExecuteTaskSync(iter(requests))
    return {"kinds": kinds, "accuracy": trained["accuracy"], **natives(greeting, answer.header.resource.outputs)}


def local(folder: str) -> dict[str, Any]:
    """By propfan's mixin."""
    from propfan.engine.connector_service.config import ConnectorServiceConfig
    from propfan.engine.connector_service.flytekit_tasks import LocalConnectorMixin

    class Local(LocalConnectorMixin, Task):
        connector_modules = ("training_connector:TrainingConnector",)
        connector_config = ConnectorServiceConfig(entry_points=False, connectors={"training": {"folder": folder}})
        poll_interval_s = 0.05

    told: dict[str, Any] = {"accuracy": Local(*TRAINING)().accuracy}
    for case, task in {
        "wrong": Local("train-classifier", {"epochs": 0}, {}, OUTPUTS),
        "slow": Local("train-classifier", {"epochs": 10_000}, {}, OUTPUTS, timeout_s=1),
        "unknown": Local("no-such-type", {}, {}, {}),
    }.items():
        try:
            task()
        except Exception as error:  # noqa: BLE001 - told
            told[case] = str(error)
    return told


def interrupted(folder: str) -> dict[str, Any]:
    from propfan.engine.connector_service.config import ConnectorServiceConfig
    from propfan.engine.connector_service.flytekit_tasks import LocalConnectorMixin

    class Local(LocalConnectorMixin, Task):
        connector_modules = ("training_connector:TrainingConnector",)
        connector_config = ConnectorServiceConfig(entry_points=False, connectors={"training": {"folder": folder}})
        poll_interval_s = 0.05

    return {"accuracy": Local("train-classifier", {"epochs": 10_000}, {}, OUTPUTS)().accuracy}


def registered(folder: str) -> dict[str, Any]:
    """By flytekit's own mixins, with propfan's connectors in flytekit's registry."""
    import msgspec
    import training_connector

    from propfan.engine.connector_service import flytekit_tasks
    from tests.peers.greeting import Greeter

    training_connector.TrainingConfig = msgspec.defstruct("TrainingConfig", [("folder", str, folder)], frozen=True)
    flytekit_tasks.register(training_connector.TrainingConnector)
    flytekit_tasks.register(Greeter)
    return {"accuracy": TrainingTask(*TRAINING)().accuracy, "greeting": GreetTask(*GREETING)(name="peer")}


if __name__ == "__main__":
    done = {"served": served, "local": local, "registered": registered, "interrupted": interrupted}[sys.argv[1]](
        sys.argv[2]
    )
    print(json.dumps(done))
