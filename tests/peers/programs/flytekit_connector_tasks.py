"""Tasks of flytekit's connectors, as their SDK serialises them: ``python flytekit_connector_tasks.py BASE_URL FILE``."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.extras.webhook import WebhookTask
from flytekit.sensor.file_sensor import FileSensor
from flytekit.tools.translator import get_serializable
from flytekitplugins.awssagemaker_inference import BotoConfig, BotoTask
from flytekitplugins.openai import BatchEndpointTask, ChatGPTTask

base_url, output = sys.argv[1:]


def tasks() -> Iterator[Any]:
    yield WebhookTask(name="webhook", url=f"{base_url}/hook", data={"answer": 42}, show_data=True)
    yield FileSensor(name="sensor")
    yield ChatGPTTask(name="chat", chatgpt_config={"model": "gpt-test"})
    yield BatchEndpointTask(name="batch", config={"completion_window": "24h", "endpoint": "/v1/chat/completions"})
    config = {
        "ModelName": "{inputs.model}-{idempotence_token}",
        "PrimaryContainer": {"Image": "none"},
        "ExecutionRoleArn": "arn:aws:iam::123456789012:role/test",
    }
    boto = BotoConfig(service="sagemaker", method="create_model", config=config, region="us-east-1")
    yield BotoTask(name="boto", task_config=boto, inputs={"model": str})


settings = SerializationSettings(
    project="p", domain="d", version="1", image_config=ImageConfig(Image("default", "none", "1"))
)
made = {}
for task in tasks():
    template = get_serializable({}, settings, task).template.to_flyte_idl()
    made[template.id.name] = base64.b64encode(template.SerializeToString()).decode()
Path(output).write_text(json.dumps(made), encoding="utf-8")
