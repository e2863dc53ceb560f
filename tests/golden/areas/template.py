"""Command and argument templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.core import literals_pb2

from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.errors import StorageError, TaskError
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates
from tests.golden.inputs import binary


class _ReadError(StorageError):
    def __str__(self) -> str:
        return self.problem


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    inputs: literals_pb2.LiteralMap | Exception | None = None
    if case.get("inputs_error"):
        inputs = _ReadError("", case["inputs_error"])
    elif case.get("inputs") is not None:
        inputs = literals_pb2.LiteralMap.FromString(binary(case["inputs"]) or b"")
    paths = None if case.get("no_input_reader") else msgspec.convert(case["paths"], IOPaths)
    parameters = TemplateParameters(case.get("generated_name", ""), case.get("namespace", ""), paths, inputs)
    try:
        return {"rendered": compile_templates(case.get("templates") or ()).render(parameters)}
    except TaskError as error:
        return {"error": {"code": error.code, "message": error.message, "message_exact": True}}
