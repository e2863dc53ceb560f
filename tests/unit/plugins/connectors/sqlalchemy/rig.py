"""Tasks as flytekit's plugin serialises them, and what reads their rows."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
from flyteidl2.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2

from propfan.pluginmachinery.connector import TaskRequest
from propfan.pluginmachinery.testing import InMemoryStore, task_template
from propfan.pluginmachinery.testing.connector_fakes import connector_task

SCHEMA = types_pb2.LiteralType(schema=types_pb2.SchemaType())
DATASET = types_pb2.LiteralType(structured_dataset_type=types_pb2.StructuredDatasetType())
PREFIX = "memory:///r1/a0/1"


def template(
    query: str, uri: str, *, output: types_pb2.LiteralType | None = SCHEMA, task_type: str = "sqlalchemy", **custom: Any
) -> tasks_pb2.TaskTemplate:
    """With output ``results`` unless there is to be none."""
    made = task_template(task_type, custom={"query_template": query, "uri": uri, **custom})
    if output is not None:
        variable = interface_pb2.Variable(type=output)
        made.interface.outputs.variables.append(interface_pb2.VariableEntry(key="results", value=variable))
    return made


def query(text: str, uri: str, inputs: literals_pb2.LiteralMap | None = None, **more: Any) -> TaskRequest:
    secrets = more.pop("secrets", None)
    run = more.pop("run", "r1")
    return connector_task(
        template(text, uri, connect_args={}, secret_connect_args=more.pop("secret_connect_args", None), **more),
        inputs,
        secrets=secrets,
        run=run,
    )


def rows(store: Any) -> Sequence[Mapping[str, Any]]:
    """What the last task stored."""
    assert isinstance(store, InMemoryStore)
    content = store.objects[f"{PREFIX}/results/00000"]
    found: Sequence[Mapping[str, Any]] = pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()
    return found


def simple(kind: types_pb2.SimpleType) -> types_pb2.LiteralType:
    return types_pb2.LiteralType(simple=kind)
