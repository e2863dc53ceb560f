"""Tasks for AWS, connectors that ask the AWS of the tests, and single calls of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from flyteidl2.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    ConnectorSetup,
    JobContext,
    Resource,
    SyncConnector,
    TaskRequest,
    local,
)
from propfan.pluginmachinery.testing import connector_setup, connector_task, literal_map, task_template
from tests.unit.plugins.connectors.aws.amazon import Amazon

STRUCT: Final = types_pb2.STRUCT
STRING: Final = types_pb2.STRING

SECRETS: Final = {"aws_access_key_id": "AKIDOFTHESERVICE", "aws_secret_access_key": "s3rvice-s3cret"}
ROLE: Final = "arn:aws:iam::123456789012:role/sagemaker"
MODEL: Final = {"PrimaryContainer": {"Image": "r/x:1"}, "ExecutionRoleArn": ROLE}


def section(aws: Amazon, **more: Any) -> dict[str, Any]:
    """Of the configuration; nothing is tried twice, which would take time."""
    return {"region": "us-east-1", "endpoint-url": aws.url, "credentials": "secrets", "attempts": 1, **more}


def setup_at(aws: Amazon, **more: Any) -> ConnectorSetup:
    return connector_setup(secrets=SECRETS, sections={"aws": section(aws, **more)})


def boto_template(service: str, method: str, config: Mapping[str, Any], **more: Any) -> tasks_pb2.TaskTemplate:
    """As the SDK serialises it."""
    custom = {"service": service, "method": method, "config": dict(config), "region": "us-east-1", "images": None}
    return task_template("boto", custom={**custom, **more}, outputs={"result": STRUCT, "idempotence_token": STRING})


def boto_task(
    service: str,
    method: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    attempt: int = 0,
    **more: Any,
) -> TaskRequest:
    template = boto_template(service, method, config, **more)
    return connector_task(template, literal_map(**(inputs or {})), secrets=secrets, attempt=attempt)


def endpoint_task(name: str = "shop", config_name: str = "c1", *, run: str = "r1", **more: Any) -> TaskRequest:
    custom = {"config": {"EndpointName": name, "EndpointConfigName": config_name}, "region": "us-east-1", **more}
    return connector_task(task_template("sagemaker-endpoint", custom=custom, outputs={"result": STRUCT}), run=run)


def query_template(statement: str, *, results: str = "schema", **more: str) -> tasks_pb2.TaskTemplate:
    """As the SDK serialises it; ``results`` is the kind of its output, empty for none."""
    made = task_template("presto", custom={"statement": statement, **more})
    if results:
        kind = types_pb2.LiteralType(schema=types_pb2.SchemaType())
        if results == "structured_dataset":
            kind = types_pb2.LiteralType(structured_dataset_type=types_pb2.StructuredDatasetType())
        variable = interface_pb2.Variable(type=kind)
        made.interface.outputs.variables.append(interface_pb2.VariableEntry(key="results", value=variable))
    return made


def query_task(
    statement: str,
    inputs: Mapping[str, Any] | None = None,
    *,
    results: str = "schema",
    secrets: Mapping[str, str] | None = None,
    output_prefix: str = "s3://flyte/r1/a0/1",
    **more: str,
) -> TaskRequest:
    template = query_template(statement, results=results, **more)
    return connector_task(template, literal_map(**(inputs or {})), secrets=secrets, output_prefix=output_prefix)


async def do(connector: SyncConnector, task: TaskRequest) -> Resource:
    return await local.call(partial(connector.do, task))


async def create(connector: AsyncConnector[Any], task: TaskRequest) -> Any:
    return await local.call(partial(connector.create, task))


async def get(connector: AsyncConnector[Any], meta: Any, job: JobContext | None = None) -> Resource:
    return await local.call(partial(connector.get, meta, job or JobContext()))


async def delete(connector: AsyncConnector[Any], meta: Any, job: JobContext | None = None) -> None:
    await local.call(partial(connector.delete, meta, job or JobContext()))


def schema_at(uri: str) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(schema=literals_pb2.Schema(uri=uri)))
