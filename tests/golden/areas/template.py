"""Command and argument templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flyteidl2.core import literals_pb2

from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates
from tests.golden.inputs import FailedReadError, binary, error_output, paths


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    inputs: literals_pb2.LiteralMap | Exception | None = None
    if case.get("inputs_error"):
        inputs = FailedReadError("", case["inputs_error"])
    elif case.get("inputs") is not None:
        inputs = literals_pb2.LiteralMap.FromString(binary(case["inputs"]) or b"")
    parameters = TemplateParameters(
        case.get("generated_name", ""),
        case.get("namespace", ""),
        None if case.get("no_input_reader") else paths(case),
        inputs,
    )
    try:
        return {"rendered": compile_templates(case.get("templates") or ()).render(parameters)}
    except TaskError as error:
        return {"error": error_output(error)}
