"""Tasks of flytekitplugins-openai: ``python flytekit_openai_tasks.py serialise|inputs|decode|alone ...``.

``serialise FILE`` writes the templates, by name. ``inputs JSONL FILE`` writes ``jsonl_in`` as a file and as an iterator
of JSON. ``decode OUTPUTS FILE`` reads what tasks answered as their declared types. ``alone JSONL FILE`` runs all tasks
by flytekit itself.
"""

from __future__ import annotations

import base64
import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - the SDK knows this one only

from flyteidl.admin.task_pb2 import TaskSpec
from flyteidl.core import literals_pb2
from flytekit import FlyteContextManager, Secret
from flytekit.configuration import Image, ImageConfig, SerializationSettings
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import LiteralMap
from flytekit.tools.translator import get_serializable
from flytekit.types.file import JSONLFile
from flytekit.types.iterator import JSON
from flytekitplugins.openai import BatchResult, ChatGPTTask, create_batch

SECRET = Secret(group="openai", key="openai-api-key")
ORGANIZATION = "org-propfan"
FILES = create_batch(
    name="files",
    openai_organization=ORGANIZATION,
    secret=SECRET,
    config={"metadata": {"team": "a"}, "completion_window": "24h", "endpoint": "/v1/chat/completions"},
    is_json_iterator=False,
)
LINES = create_batch(name="lines", openai_organization=ORGANIZATION, secret=SECRET)
CHAT = ChatGPTTask(name="chat", openai_organization=ORGANIZATION, chatgpt_config={"model": "echo", "temperature": 0.5})
BARE = ChatGPTTask(name="bare", chatgpt_config={"model": "echo", "max_completion_tokens": 100})


def templates() -> dict[str, str]:
    settings = SerializationSettings(
        project="p", domain="d", version="1", image_config=ImageConfig(Image("default", "none", "1"))
    )
    specs: OrderedDict[Any, Any] = OrderedDict()
    for entity in (FILES, LINES, CHAT, BARE):
        get_serializable(specs, settings, entity)
    made = [spec.to_flyte_idl() for spec in specs.values()]
    tasks = [each.template for each in made if isinstance(each, TaskSpec)]
    return {task.id.name: base64.b64encode(task.SerializeToString()).decode() for task in tasks}


def inputs(jsonl: str) -> dict[str, str]:
    context = FlyteContextManager.current_context()
    lines = (json.loads(line) for line in Path(jsonl).read_text().splitlines())
    values = {"file": (JSONLFile(jsonl), JSONLFile), "iterator": (lines, Iterator[JSON])}
    made = {}
    for name, (value, kind) in values.items():
        literal = TypeEngine.to_literal(context, value, kind, TypeEngine.to_literal_type(kind))
        made[name] = base64.b64encode(literal.to_flyte_idl().SerializeToString()).decode()
    return made


def result(found: BatchResult) -> dict[str, Any]:
    """Its files' lines, without what is another one in each run."""

    def said(file: Any) -> list[Any] | None:
        if file is None:
            return None
        lines = [json.loads(line) for line in Path(file.download()).read_text().splitlines()]
        return sorted([line["custom_id"], line["response"]["status_code"]] for line in lines)

    return {"output_file": said(found.output_file), "error_file": said(found.error_file)}


def decode(given: dict[str, str]) -> dict[str, Any]:
    context, found = FlyteContextManager.current_context(), {}
    kinds: dict[str, Any] = {"upload": {"result": str}, "batch": {"result": dict}, "download": {"result": BatchResult}}
    kinds["chat"] = {"o0": str}
    for name, content in given.items():
        message = literals_pb2.LiteralMap.FromString(base64.b64decode(content))
        kind = kinds[name]
        (value,) = TypeEngine.literal_map_to_kwargs(context, LiteralMap.from_flyte_idl(message), kind).values()
        found[name] = result(value) if isinstance(value, BatchResult) else value
    return found


def alone(jsonl: str) -> dict[str, Any]:
    return {"download": result(FILES(jsonl_in=JSONLFile(jsonl))), "chat": CHAT(message="hi")}


if __name__ == "__main__":
    what, *arguments, output = sys.argv[1:]
    match what:
        case "serialise":
            told: dict[str, Any] = templates()
        case "inputs":
            told = inputs(*arguments)
        case "decode":
            told = decode(json.loads(Path(arguments[0]).read_text()))
        case _:
            told = alone(*arguments)
    Path(output).write_text(json.dumps(told), encoding="utf-8")
