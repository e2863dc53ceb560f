"""A connector's answer to a phase, and what is written of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.connector import connector_pb2
from flyteidl2.core import literals_pb2, tasks_pb2
from google.protobuf import json_format

from propfan.pluginmachinery.config import decode_config
from propfan.pluginmachinery.errors import TaskError
from propfan.pluginmachinery.phases import UNDEFINED, Phase, PhaseInfo
from propfan.plugins.connector import verdicts
from propfan.plugins.connector.config import PATH, ConnectorServiceConfig
from propfan.plugins.connector.plugin import ConnectorPlugin
from tests.golden import inputs
from tests.golden.areas.podphase import phase_info_output
from tests.golden.comparison import Difference
from tests.golden.comparison import compare as compare_json


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    ctx = inputs.Context({**case, "paths": _NO_PATHS, "plugin_state": None})
    default = inputs.defaults()["config"]["connector-service"]
    section = {**default, "logs": {**default["logs"], **(case["connector_logs_config"] or {})}}
    plugin = ConnectorPlugin(decode_config(ConnectorServiceConfig, section, PATH), inputs.NoSecrets())
    links = plugin.app_links(ctx, case["connector_id"]) if case["is_connector_app"] else ()
    info, error = UNDEFINED, {}
    try:
        verdict = verdicts.phase_info(ctx, _resource(case), endpoint=case["connector_endpoint"], app_links=links)
        info = inputs.finish(verdict)
    except TaskError as problem:
        error = {"error": {"code": problem.code, "message": str(problem)}}
    written = ctx.output_writer.outputs
    return {
        **error,
        "phase_info": phase_info_output(info),
        "output_writer_calls": len(written) + _stay_where_they_are(case, info, ctx.template),
        "written_outputs": _literals(written[-1].SerializeToString()) if written else None,
    }


def compare(case: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """Outputs are compared as what they say: a map has no order."""
    written = expected["written_outputs"]
    wanted = {**expected, "written_outputs": None if written is None else _literals(base64.b64decode(written))}
    return compare_json(case, wanted, actual)


_NO_PATHS = dict.fromkeys(
    (
        "input_prefix",
        "output_prefix",
        "raw_output_prefix",
        "input",
        "output",
        "error",
        "deck",
        "checkpoint_prefix",
    ),
    "",
)


def _resource(case: Mapping[str, Any]) -> connector_pb2.Resource:
    message = connector_pb2.Resource(phase=case["phase"], message=case["message"])
    for link in case["log_links"] or ():
        message.log_links.add().ParseFromString(base64.b64decode(link))
    if case["outputs"] is not None:
        message.outputs.ParseFromString(base64.b64decode(case["outputs"]))
        message.outputs.SetInParent()
    if case["custom_info"] is not None:
        json_format.Parse(msgspec.json.encode(case["custom_info"]), message.custom_info)
    return message


def _stay_where_they_are(case: Mapping[str, Any], info: PhaseInfo, template: tasks_pb2.TaskTemplate) -> bool:
    """Flyte hands its writer what the connector wrote itself, to leave it where it is: nothing that takes a call here."""
    return info.phase is Phase.SUCCESS and case["outputs"] is None and bool(template.interface.outputs.variables)


def _literals(content: bytes) -> dict[str, Any]:
    return json_format.MessageToDict(literals_pb2.LiteralMap.FromString(content))
