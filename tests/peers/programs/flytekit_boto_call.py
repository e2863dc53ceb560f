"""One task of type ``boto``, run by the SDK's own connector: ``python flytekit_boto_call.py FILE`` prints its outputs."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import sys
from pathlib import Path
from typing import Any

import flytekitplugins.awssagemaker_inference
from flyteidl.core.tasks_pb2 import TaskTemplate as Message
from flytekit import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.extend.backend.base_connector import ConnectorRegistry
from flytekit.models.task import TaskTemplate

assert flytekitplugins.awssagemaker_inference, "imported for the connectors that it registers"

given = json.loads(Path(sys.argv[1]).read_bytes())
template = TaskTemplate.from_flyte_idl(Message.FromString(base64.b64decode(given["template"])))
context = FlyteContextManager.current_context()
inputs = TypeEngine.dict_to_literal_map(context, given["inputs"])
connector = ConnectorRegistry.get_connector(template.type, 0)


async def outputs() -> dict[str, Any]:
    resource = connector.do(task_template=template, inputs=inputs, output_prefix="/tmp")
    made = (await resource if inspect.isawaitable(resource) else resource).outputs
    if isinstance(made, dict):
        return made
    kinds = {"result": dict, "idempotence_token": str}
    return {name: TypeEngine.to_python_value(context, made.literals[name], kind) for name, kind in kinds.items()}


print(json.dumps(asyncio.run(outputs())))
