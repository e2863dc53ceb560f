"""AWS's connectors as users meet them: a whole engine asks the real connector service, which asks AWS."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2

from propfan.engine import Engine, EngineConfig
from propfan.engine.connector_service import local_runs
from propfan.engine.connector_service.config import ConnectorServiceConfig
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.secret_managers.config import Place, SecretsSection
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.submission import TaskStatus
from propfan.engine.task_events import ActionPhase
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.connector import RemotePhase
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import InMemoryStore, literal_map, task_template
from propfan.plugins.connector import entry
from propfan.plugins.connectors.aws import connectors
from tests.unit.engine.connector_service.rig import CONFIG, serving, until
from tests.unit.plugins.connector.rig import engine_at, quick_looks, submit
from tests.unit.plugins.connector.rig import section as connector_section
from tests.unit.plugins.connectors.aws.amazon import Amazon, refusal
from tests.unit.plugins.connectors.aws.rig import MODEL, SECRETS, STRUCT, boto_template, query_template, section
from tests.unit.plugins.connectors.aws.test_endpoints import VARIANTS

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

SERVICE_SECRETS = {f"_FSEC_{key.upper()}": value for key, value in SECRETS.items()}


def service_config(aws: Amazon) -> ConnectorServiceConfig:
    return msgspec.structs.replace(CONFIG, connectors={"aws": section(aws)})


@asynccontextmanager
async def engine_with(aws: Amazon, store: InMemoryStore | None = None) -> AsyncIterator[Engine]:
    async with serving(*connectors, config=service_config(aws), **SERVICE_SECRETS) as service:
        endpoint = service.service.address
        async with engine_at(endpoint, store=store, deployment={"defaultTimeout": "20s"}) as engine:
            with anyio.fail_after(60):
                yield engine


async def begun(engine: Engine, template: tasks_pb2.TaskTemplate, **inputs: Any) -> TaskKey:
    for name, value in inputs.items():
        kind = types_pb2.LiteralType(simple=types_pb2.INTEGER if isinstance(value, int) else types_pb2.STRING)
        variable = interface_pb2.VariableEntry(key=name, value=interface_pb2.Variable(type=kind))
        template.interface.inputs.variables.append(variable)
    return await submit(engine, template, inputs=literal_map(**inputs).SerializeToString() if inputs else None)


async def ends(engine: Engine, template: tasks_pb2.TaskTemplate, **inputs: Any) -> TaskStatus:
    return await engine.wait(await begun(engine, template, **inputs))


async def outputs_of(engine: Engine, status: TaskStatus) -> Mapping[str, literals_pb2.Literal]:
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return {literal.name: literal.value for literal in common_pb2.Outputs.FromString(content).literals}


def unpacked(literal: literals_pb2.Literal) -> Any:
    return msgspec.msgpack.decode(literal.scalar.binary.value)


async def told(engine: Engine, key: TaskKey, phase: ActionPhase) -> None:
    async with engine.events(key=key) as events:
        async for _, event in events:
            if event.phase is phase:
                return


def endpoint_template() -> tasks_pb2.TaskTemplate:
    config = {"EndpointName": "e-{inputs.token}", "EndpointConfigName": "c-{inputs.token}"}
    return task_template(
        "sagemaker-endpoint", custom={"config": config, "region": "us-east-1"}, outputs={"result": STRUCT}
    )


async def deployed(engine: Engine) -> str:
    """A model and its endpoint configuration; the token in their names."""
    config: dict[str, Any] = {**MODEL, "ModelName": "{inputs.name}-{idempotence_token}"}
    model = await outputs_of(engine, await ends(engine, boto_template("sagemaker", "create_model", config), name="m"))
    token = model["idempotence_token"].scalar.primitive.string_value
    assert unpacked(model["result"])["ModelArn"].endswith(f":model/m-{token}")
    config = {
        "EndpointConfigName": "c-{inputs.token}",
        "ProductionVariants": [{**VARIANTS[0], "ModelName": "m-{inputs.token}"}],
    }
    await outputs_of(
        engine, await ends(engine, boto_template("sagemaker", "create_endpoint_config", config), token=token)
    )
    return token


async def test_model_becomes_an_endpoint(aws: Amazon) -> None:
    async with engine_with(aws) as engine:
        token = await deployed(engine)
        endpoint = await outputs_of(engine, await ends(engine, endpoint_template(), token=token))
        assert unpacked(endpoint["result"])["EndpointArn"].endswith(f":endpoint/e-{token}")
    assert aws.count("CreateEndpoint") == 1
    assert aws.count("DeleteEndpoint") == 0


async def test_aborted_endpoint_is_deleted_once_it_can_be(aws: Amazon) -> None:
    async with engine_with(aws) as engine:
        token = await deployed(engine)
        name = f"e-{token}"
        aws.endpoint_states[name] = ("Creating", "")
        key = await begun(engine, endpoint_template(), token=token)
        await told(engine, key, ActionPhase.RUNNING)
        await engine.abort(key)
        await until(lambda: aws.count("DeleteEndpoint"))
        del aws.endpoint_states[name]
        assert (await engine.wait(key)).outcome is Outcome.ABORTED
        await engine.settled()
    assert aws.count("DeleteEndpoint") == 2
    assert name not in aws.names("Endpoint")


async def test_query_leaves_where_its_results_are(aws: Amazon) -> None:
    async with engine_with(aws) as engine:
        template = query_template(
            "UNLOAD (SELECT {{.inputs.n}}) TO 's3://lake/x' WITH (format = 'PARQUET')", schema="db"
        )
        outputs = await outputs_of(engine, await ends(engine, template, n=7))
        assert outputs["results"].scalar.schema.uri == "s3://lake/x"
    request = aws.last("StartQueryExecution").arguments
    assert request["QueryString"].startswith("UNLOAD (SELECT 7)")


async def test_failed_query_fails_its_task_with_athenas_words(aws: Amazon) -> None:
    aws.query_states = {"missing": {"State": "FAILED", "StateChangeReason": "TABLE_NOT_FOUND: line 1:15"}}
    async with engine_with(aws) as engine:
        status = await ends(engine, query_template("select * from missing"))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert "TABLE_NOT_FOUND: line 1:15" in status.error.message


async def test_query_that_may_succeed_later_is_run_again(aws: Amazon) -> None:
    aws.query_states = {"busy": {"State": "FAILED", "AthenaError": {"Retryable": True, "ErrorMessage": "no room"}}}
    async with engine_with(aws) as engine:
        template = query_template("select * from busy")
        template.metadata.retries.retries = 1
        status = await ends(engine, template)
    assert status.outcome is Outcome.FAILED
    assert aws.count("StartQueryExecution") == 2, "each attempt is a query of its own"


async def test_aborted_query_is_stopped(aws: Amazon) -> None:
    aws.query_states = {"long": {"State": "RUNNING"}}
    async with engine_with(aws) as engine:
        key = await submit(engine, query_template("select long"))
        await told(engine, key, ActionPhase.RUNNING)
        await engine.abort(key)
        assert (await engine.wait(key)).outcome is Outcome.ABORTED
        await engine.settled()
    assert aws.count("StopQueryExecution") == 1


async def test_throttled_call_is_made_again(aws: Amazon) -> None:
    aws.faults["CreateQueue"] = [refusal("ThrottlingException", "Rate exceeded")]
    async with engine_with(aws) as engine:
        template = boto_template("sqs", "create_queue", {"QueueName": "work"})
        outputs = await outputs_of(engine, await ends(engine, template))
    assert unpacked(outputs["result"])["QueueUrl"].endswith("/work")
    assert aws.count("CreateQueue") == 2


async def test_wrong_argument_fails_the_task_by_its_name(aws: Amazon) -> None:
    async with engine_with(aws) as engine:
        status = await ends(engine, boto_template("sqs", "create_queue", {"Queue": "work"}))
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert 'Unknown parameter in input: "Queue"' in status.error.message
    assert SECRETS["aws_secret_access_key"] not in repr(status)


@pytest.mark.parametrize(
    ("code", "told_as"),
    [
        ("AccessDeniedException", "ServiceNotAllowed"),
        ("ResourceLimitExceeded", "ResourceLimitExceeded"),
        ("ValidationException", "BadTaskSpecification"),
    ],
)
async def test_refusals_fail_the_task_at_once(aws: Amazon, code: str, told_as: str) -> None:
    aws.faults["CreateEndpoint"] = [refusal(code, "because")]
    async with engine_with(aws) as engine:
        template = endpoint_template()
        template.metadata.retries.retries = 3
        status = await ends(engine, template, token="t")
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert f"[{told_as}]" in status.error.message
    assert aws.count("CreateEndpoint") == 1


async def test_secrets_of_the_task_sign_every_call_for_it(aws: Amazon) -> None:
    template = query_template("select 1")
    keys = {"aws_access_key_id": "ANALYST_KEY_ID", "aws_secret_access_key": "ANALYST_KEY"}
    template.custom.update({"secrets": keys})
    aws.query_states = {"select": {"State": "RUNNING"}}
    secrets = SecretsSection(types=(Place.KUBERNETES,), namespace="vault")
    async with serving(*connectors, config=service_config(aws)) as service:
        registry = Registry()
        registry.register(entry)
        plugins: Any = {"connector-service": connector_section(service.service.address)}
        config = EngineConfig(plugins=plugins, secrets=secrets)
        with anyio.fail_after(60):
            async with Engine(config, registry=registry, store=InMemoryStore()) as engine:
                await keep(engine, "ANALYST_KEY_ID", "AKIDOFANANALYST")
                await keep(engine, "ANALYST_KEY", "an4lyst-s3cret")
                key = await submit(engine, template)
                await told(engine, key, ActionPhase.RUNNING)
                await engine.abort(key)
                assert (await engine.wait(key)).outcome is Outcome.ABORTED
                await engine.settled()
    assert {call.action for call in aws.calls} == {"StartQueryExecution", "GetQueryExecution", "StopQueryExecution"}
    assert {call.access_key_id for call in aws.calls} == {"AKIDOFANANALYST"}


async def keep(engine: Engine, name: str, value: str) -> None:
    """A secret of everybody's."""
    identifier = SecretScope("flyte", "", "").id_of(name)
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": object_name(identifier), "namespace": "vault"},
        "data": {identifier: b64encode(value.encode()).decode()},
    }
    await engine.cluster.create(SECRET, msgspec.json.encode(body))


async def test_entry_point_runs_a_task_here_and_now(aws: Amazon) -> None:
    """As ``propfan connector run`` does."""
    config = ConnectorServiceConfig(modules=("propfan.plugins.connectors.aws",), entry_points=False)
    config = msgspec.structs.replace(config, connectors={"aws": section(aws)})
    async with local_runs.opened(config, SERVICE_SECRETS) as made:
        outcome = await local_runs.run(
            made, query_template("select 1"), common_pb2.Inputs(), output_prefix="s3://flyte/x", poll_interval_s=0.01
        )
    assert outcome.resource.phase is RemotePhase.SUCCEEDED
    assert outcome.outputs is not None
    assert outcome.outputs.literals[0].value.scalar.schema.uri.startswith("s3://flyte/x/athena/")
