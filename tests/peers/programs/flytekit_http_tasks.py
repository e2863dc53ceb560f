"""A program for an environment with flytekit: drives webhooks and sensors as flytekit writes them, and says how it went.

python flytekit_http_tasks.py served ADDRESS HOOK_URL FOLDER     as a control plane of Flyte 1 does, by a service
python flytekit_http_tasks.py alone HOOK_URL FOLDER              by flytekit's own connectors, to compare
python flytekit_http_tasks.py local FOLDER                       by propfan's mixin, without a service
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import grpc
from flyteidl.admin import agent_pb2
from flyteidl.core.execution_pb2 import TaskExecution
from flyteidl.service import agent_pb2_grpc
from flytekit.configuration import ImageConfig, SerializationSettings
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap
from flytekit.sensor.base_sensor import BaseSensor
from flytekit.sensor.file_sensor import FileSensor
from flytekit.tools.translator import get_serializable

INPUTS: Mapping[str, Any] = {"n": 3, "who": "peer", "parts": [1, 2]}
KINDS: Mapping[str, Any] = {"n": int, "who": str, "parts": list[int]}


def webhooks(url: str) -> dict[str, Any]:
    """By what is told of each; all have the inputs of ``INPUTS``."""
    from flytekit.extras.webhook import WebhookTask  # needs httpx

    data = {"n": "{inputs.n}", "text": "{inputs.who} has {inputs.n}", "deep": {"parts": "{inputs.parts}"}, "answer": 42}
    return {
        "post": WebhookTask(
            name="post",
            url=f"{url}/{{inputs.who}}/hook",
            headers={"X-Who": "{inputs.who}"},
            data=data,
            dynamic_inputs=KINDS,
            show_data=True,
            show_url=True,
        ),
        "get": WebhookTask(
            name="get",
            url=f"{url}/hook",
            method="GET",
            data={"n": "{inputs.n}", "flag": True, "parts": [1, 2]},
            dynamic_inputs=KINDS,
            show_data=True,
        ),
        "bare": WebhookTask(name="bare", url=f"{url}/hook", dynamic_inputs=KINDS),
        "refused": WebhookTask(name="refused", url=f"{url}/missing", dynamic_inputs=KINDS),
    }


def template_of(task: Any) -> Any:
    settings = SerializationSettings(image_config=ImageConfig(), project="p", domain="d", version="v1")
    return get_serializable(OrderedDict(), settings, task).template.to_flyte_idl()


def literals(values: Mapping[str, Any], kinds: Mapping[str, Any]) -> Any:
    context = FlyteContextManager.current_context()
    return TypeEngine.dict_to_literal_map(context, dict(values), dict(kinds)).to_flyte_idl()


def sync(channel: grpc.Channel, task: Any) -> Any:
    """What the service answers: the output ``info``, or the message of what failed."""
    stub = cast("Any", agent_pb2_grpc).SyncAgentServiceStub(channel)
    header = agent_pb2.CreateRequestHeader(template=template_of(task), output_prefix="file:///tmp/x")
    inputs = agent_pb2.ExecuteTaskSyncRequest(inputs=literals(INPUTS, KINDS))
    (answer,) = stub.ExecuteTaskSync(iter([agent_pb2.ExecuteTaskSyncRequest(header=header), inputs]))
    resource = answer.header.resource
    if not resource.HasField("outputs"):
        return resource.message
    context = FlyteContextManager.current_context()
    made = TypeEngine.literal_map_to_kwargs(
        context, LiteralMap.from_flyte_idl(resource.outputs), task.python_interface.outputs
    )
    return made["info"]


def phases(channel: grpc.Channel, path: Path) -> list[str]:
    """Of flytekit's file sensor: without the file, with it, and after it was deleted."""
    stub = cast("Any", agent_pb2_grpc).AsyncAgentServiceStub(channel)
    request = agent_pb2.CreateTaskRequest(
        template=template_of(FileSensor(name="sensor")),
        inputs=literals({"path": str(path)}, {"path": str}),
        output_prefix="file:///x",
    )
    meta = stub.CreateTask(request).resource_meta
    category = agent_pb2.TaskCategory(name="sensor")
    asked = agent_pb2.GetTaskRequest(resource_meta=meta, task_category=category)
    seen = [stub.GetTask(asked).resource.message]
    path.touch()
    resource = stub.GetTask(asked).resource
    seen.append(f"{TaskExecution.Phase.Name(resource.phase)}: {resource.message}")
    stub.DeleteTask(agent_pb2.DeleteTaskRequest(resource_meta=meta, task_category=category))
    return seen


def served(address: str, url: str, folder: str) -> dict[str, Any]:
    channel = grpc.insecure_channel(address)
    told = {name: sync(channel, task) for name, task in webhooks(url).items()}
    return {**told, "phases": phases(channel, Path(folder) / "ready")}


def alone(url: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, task in webhooks(url).items():
        try:
            told[name] = task(**INPUTS)
        except Exception as error:  # noqa: BLE001 - told
            told[name] = str(error)
    return told


def local(folder: str) -> dict[str, Any]:
    from propfan.engine.connector_service.config import ConnectorServiceConfig
    from propfan.engine.connector_service.flytekit_tasks import LocalConnectorMixin
    from tests.peers.programs.flytekit_own_sensor import CountSensor, Least

    def config(**section: Any) -> ConnectorServiceConfig:
        return ConnectorServiceConfig(entry_points=False, connectors={"sensor": section})

    class Local(LocalConnectorMixin):
        connector_modules = ("propfan.plugins.connectors.sensor",)
        connector_config = config()
        poll_interval_s = 0.05

    class LocalFile(Local, FileSensor):
        def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
            return {"sensor_module": FileSensor.__module__, "sensor_name": "FileSensor"}

    class LocalCount(Local, CountSensor):
        connector_config = config(modules=[CountSensor.__module__])

        def get_custom(self, settings: SerializationSettings) -> dict[str, Any]:
            return {
                **super().get_custom(settings),
                "sensor_module": CountSensor.__module__,
                "sensor_name": "CountSensor",
            }

    class Unnamed(LocalCount):
        connector_config = config()

    files = Path(folder)
    (files / "a").touch()
    LocalFile(name="file")(path=str(files / "a"))
    LocalCount(name="count", config=Least(2))(folder=folder)
    told = {"files": len(list(files.iterdir()))}
    try:
        Unnamed(name="unnamed", config=Least(1))(folder=folder)
    except Exception as error:  # noqa: BLE001 - told
        return {**told, "unnamed": str(error), "is_sensor": issubclass(CountSensor, BaseSensor)}
    return told


if __name__ == "__main__":
    print(json.dumps({"served": served, "alone": alone, "local": local}[sys.argv[1]](*sys.argv[2:])))
