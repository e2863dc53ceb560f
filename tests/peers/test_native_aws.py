"""Tasks that the real ``flytekitplugins-awssagemaker`` and ``flytekitplugins-athena`` serialise, on propfan's connectors."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from flyteidl2.core import literals_pb2

from propfan.engine import Engine, Submission
from propfan.engine.submission import TaskStatus
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.testing import literal_map
from propfan.plugins.connectors.aws import connectors
from tests.peers import environments
from tests.peers.connector_peers import engine_with
from tests.unit.engine.connector_service.rig import CONFIG, serving
from tests.unit.plugins.connectors.aws.amazon import Amazon, amazon
from tests.unit.plugins.connectors.aws.rig import ROLE, SECRETS

pytestmark = [pytest.mark.peer, pytest.mark.anyio]

REQUIREMENTS = (
    "flytekit>=1.16.31,<2",
    "flytekitplugins-athena>=1.16.31,<2",
    "flytekitplugins-awssagemaker>=1.16.31,<2",
)
PROGRAM = Path(__file__).parent / "programs" / "flytekit_aws_tasks.py"
CONNECTOR = Path(__file__).parent / "programs" / "flytekit_boto_call.py"
ENVIRONMENT = {f"_FSEC_{key.upper()}": value for key, value in SECRETS.items()}


@pytest.fixture(scope="module")
def python() -> Path:
    return environments.folder("flytekit-aws", REQUIREMENTS) / "bin" / "python"


@pytest.fixture(scope="module")
def templates(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """By the tasks' names, made by the SDK."""
    file = tmp_path_factory.mktemp("sdk") / "templates.json"
    subprocess.run([str(python), str(PROGRAM), str(file)], check=True, capture_output=True, timeout=120)
    made: Mapping[str, str] = msgspec.json.decode(file.read_bytes())
    return {name: base64.b64decode(template) for name, template in made.items()}


@pytest.fixture
def aws() -> Iterator[Amazon]:
    with amazon() as made:
        yield made


@pytest.fixture
async def engine(aws: Amazon, tmp_path: Path) -> AsyncIterator[Engine]:
    athena = {"output-location": "s3://results"}
    section = {"credentials": "secrets", "region": "us-east-1", "endpoint-url": aws.url, "athena": athena}
    config = msgspec.structs.replace(CONFIG, connectors={"aws": section})
    async with serving(*connectors, config=config, **ENVIRONMENT) as service:
        port = int(service.service.address.rpartition(":")[2])
        async with engine_with(port, tmp_path / "state") as running:
            yield running


async def ends(engine: Engine, template: bytes, **inputs: Any) -> TaskStatus:
    given = literal_map(**inputs).SerializeToString() if inputs else None
    with anyio.fail_after(90):
        return await engine.wait(await engine.submit(Submission(template=template, inputs=given)))


async def outputs_of(engine: Engine, status: TaskStatus) -> Mapping[str, literals_pb2.Literal]:
    assert status.outcome is Outcome.COMPLETED, status
    content = await engine.store.get(f"{status.output_prefix}/outputs.pb")
    return literals_pb2.LiteralMap.FromString(content).literals


def unpacked(literal: literals_pb2.Literal) -> Any:
    return msgspec.msgpack.decode(literal.scalar.binary.value)


async def deploy(engine: Engine, templates: Mapping[str, bytes]) -> list[Any]:
    """The three tasks of the SDK's workflow, as it binds them; what each answered, and the first one's token."""
    region = {"region": "eu-west-1"}
    first = {"model_path": "s3://models/shop", "execution_role_arn": ROLE}
    model = await outputs_of(engine, await ends(engine, templates["sagemaker-model-shop"], **first, **region))
    token = model["idempotence_token"].scalar.primitive.string_value
    more = {"idempotence_token": token, "instance_type": "ml.t2.medium", **region}
    config = await outputs_of(engine, await ends(engine, templates["sagemaker-endpoint-config-shop"], **more))
    token = config["idempotence_token"].scalar.primitive.string_value
    more = {"idempotence_token": token, **region}
    endpoint = await outputs_of(engine, await ends(engine, templates["sagemaker-endpoint-shop"], **more))
    return [unpacked(each["result"]) for each in (model, config, endpoint)]


async def test_deployment_of_the_sdk_runs_unchanged_and_again(
    engine: Engine, templates: Mapping[str, bytes], aws: Amazon
) -> None:
    model, config, endpoint = await deploy(engine, templates)
    assert model["ModelArn"].startswith("arn:aws:sagemaker:eu-west-1:123456789012:model/shop-")
    assert config["EndpointConfigArn"].startswith("arn:aws:sagemaker:eu-west-1:123456789012:endpoint-config/shop-")
    assert endpoint["EndpointArn"].startswith("arn:aws:sagemaker:eu-west-1:123456789012:endpoint/shop-")
    assert aws.last("CreateModel").arguments["PrimaryContainer"]["Image"] == "registry/shop:1"
    again = await deploy(engine, templates)
    assert again[2] == endpoint, "the same endpoint, which is there already"
    assert len(aws.names("Endpoint")) == 1
    name = endpoint["EndpointArn"].rpartition("/")[2]
    status = await ends(engine, templates["again"], name=name, config="another")
    assert status.error is not None
    assert f"endpoint '{name}' exists with the configuration" in status.error.message
    await outputs_of(engine, await ends(engine, templates["delete"], name=name))
    assert aws.names("Endpoint") == set()


async def test_any_call_of_the_sdk_runs_unchanged(engine: Engine, templates: Mapping[str, bytes]) -> None:
    outputs = await outputs_of(engine, await ends(engine, templates["queue"], name="work"))
    assert unpacked(outputs["result"])["QueueUrl"].endswith("/work")
    assert outputs["idempotence_token"].scalar.primitive.string_value == ""


async def test_queries_of_the_sdk_run_unchanged(engine: Engine, templates: Mapping[str, bytes], aws: Amazon) -> None:
    outputs = await outputs_of(engine, await ends(engine, templates["query"], ds="2026-01-01"))
    sent = aws.last("StartQueryExecution").arguments
    assert "ds = '2026-01-01'" in sent["QueryString"]
    assert (sent["WorkGroup"], sent["QueryExecutionContext"]["Database"]) == ("primary", "lake")
    uri = outputs["results"].scalar.schema.uri
    assert uri.startswith("s3://results/")
    assert f"TO '{uri}'" in sent["QueryString"]
    status = await ends(engine, templates["statement"])
    assert status.outcome is Outcome.COMPLETED
    assert aws.last("StartQueryExecution").arguments["QueryString"] == "DROP TABLE t"


async def test_names_are_those_that_the_sdks_own_connector_gives(
    engine: Engine, templates: Mapping[str, bytes], aws: Amazon, python: Path, tmp_path: Path
) -> None:
    """What one of them made, the other finds."""
    inputs = {"model_path": "s3://models/shop", "execution_role_arn": ROLE, "region": "eu-west-1"}
    outputs = await outputs_of(engine, await ends(engine, templates["sagemaker-model-shop"], **inputs))
    ours = aws.names("Model")
    file = tmp_path / "task.json"
    template = base64.b64encode(templates["sagemaker-model-shop"]).decode()
    file.write_bytes(msgspec.json.encode({"template": template, "inputs": inputs}))
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_ENDPOINT_URL": aws.url}
    done = subprocess.run(  # noqa: ASYNC221 - nothing else has to go on
        [str(python), str(CONNECTOR), str(file)], check=True, capture_output=True, timeout=120, env=keys
    )
    assert aws.count("CreateModel") == 2
    assert aws.names("Model") == ours
    answer = msgspec.json.decode(done.stdout.splitlines()[-1])
    assert answer["idempotence_token"] == outputs["idempotence_token"].scalar.primitive.string_value
    assert answer["result"].keys() == unpacked(outputs["result"]).keys()
