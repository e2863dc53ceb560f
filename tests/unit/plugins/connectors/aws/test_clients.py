"""Whose credentials are used, and which clients are kept."""

from __future__ import annotations

import socket
import subprocess
import sys

import msgspec
import pytest

from propfan.pluginmachinery.connector import Connection, JobContext
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing import connector_setup
from propfan.plugins.connectors.aws import clients
from propfan.plugins.connectors.aws.athena import AthenaConnector, QueryMeta
from propfan.plugins.connectors.aws.calls import BotoConnector
from propfan.plugins.connectors.aws.xxhash64 import hexdigest
from tests.unit.plugins.connectors.aws.amazon import Amazon
from tests.unit.plugins.connectors.aws.rig import SECRETS, boto_task, create, do, get, query_task, section, setup_at

pytestmark = pytest.mark.anyio

OWN = {"aws_access_key_id": "AKIDOFTHETASK", "aws_secret_access_key": "t4sk-s3cret"}
QUEUE = boto_task("sqs", "create_queue", {"QueueName": "q"})


def of_task(secrets: dict[str, str]) -> Connection:
    return Connection(secrets)


async def test_service_uses_its_secrets(aws: Amazon) -> None:
    await do(BotoConnector(setup_at(aws)), QUEUE)
    assert aws.last("CreateQueue").access_key_id == "AKIDOFTHESERVICE"


async def test_tasks_secrets_go_first(aws: Amazon) -> None:
    secrets = {**OWN, "aws_session_token": "t0ken"}
    await do(BotoConnector(setup_at(aws)), boto_task("sqs", "create_queue", {"QueueName": "q"}, secrets=secrets))
    call = aws.last("CreateQueue")
    assert (call.access_key_id, call.headers["X-Amz-Security-Token"]) == ("AKIDOFTHETASK", "t0ken")
    connector = AthenaConnector(setup_at(aws))
    meta = await create(connector, query_task("select 1", secrets=OWN))
    await get(connector, meta, JobContext(connection=of_task(OWN)))
    assert aws.last("GetQueryExecution").access_key_id == "AKIDOFTHETASK"
    assert b"s3cret" not in msgspec.json.encode(meta)


async def test_half_of_a_tasks_credentials_is_not_completed(aws: Amazon) -> None:
    connector = BotoConnector(setup_at(aws))
    for key, missing in zip(OWN, reversed(OWN), strict=True):
        with pytest.raises(PermanentError, match=rf"without '{missing}': add it to custom\.secrets"):
            await do(connector, boto_task("sqs", "create_queue", {}, secrets={key: "x"}))
    assert aws.calls == []


async def test_chain_finds_what_the_process_has(aws: Amazon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFTHEPROCESS")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    resource = await do(
        BotoConnector(connector_setup()), boto_task("sqs", "create_queue", {"QueueName": "q"}, region=None)
    )
    assert aws.last("CreateQueue").access_key_id == "AKIDOFTHEPROCESS"
    assert resource.custom_info is not None
    assert resource.custom_info["region"] == "eu-west-1"


async def test_region_of_the_connection_goes_before_the_configured_one(aws: Amazon) -> None:
    connector = AthenaConnector(setup_at(aws))
    task = msgspec.structs.replace(query_task("select 1"), connection=Connection(configs={"region": "eu-west-2"}))
    assert (await create(connector, task)).region == "eu-west-2"
    aws.reset()
    assert (await create(connector, query_task("select 1"))).region == "us-east-1"


async def test_missing_credentials_and_regions_are_told_with_a_way_out(aws: Amazon) -> None:
    connector = BotoConnector(connector_setup(sections={"aws": section(aws, credentials="chain", region="")}))
    with pytest.raises(PermanentError, match=r"aws_access_key_id and aws_secret_access_key in custom\.secrets"):
        await do(connector, QUEUE)
    with pytest.raises(BadTaskSpecificationError, match=r"no region: name it in custom\.region"):
        await do(connector, boto_task("sqs", "create_queue", {}, region=None))
    with pytest.raises(BadTaskSpecificationError, match=r"us_east/1"):
        await do(connector, boto_task("sqs", "create_queue", {}, region="us_east/1"))


async def test_role_is_assumed_once(aws: Amazon) -> None:
    setup = setup_at(aws, **{"role-arn": "arn:aws:iam::123456789012:role/flyte", "external-id": "e1"})
    connector = BotoConnector(setup)
    for _ in range(2):
        await do(connector, QUEUE)
    assumed = [call for call in aws.calls if "AssumeRole" in str(call.arguments)]
    assert [call.access_key_id for call in assumed] == ["AKIDOFTHESERVICE"]
    assert "ExternalId=e1" in assumed[0].arguments["body"]
    assert aws.last("CreateQueue").access_key_id.startswith("ASIA"), "a key of the role"
    await do(connector, boto_task("sqs", "create_queue", {"QueueName": "q"}, secrets=OWN))
    assert aws.last("CreateQueue").access_key_id == "AKIDOFTHETASK"


async def test_service_that_does_not_answer_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    sections = {"aws": {"endpoint-url": f"http://127.0.0.1:{port}", "credentials": "secrets", "attempts": 1}}
    connector = BotoConnector(connector_setup(secrets=SECRETS, sections=sections))
    with pytest.raises(TransientError, match=r"sqs: create_queue: .*127\.0\.0\.1"):
        await do(connector, QUEUE)


async def test_clients_are_kept_and_bounded(aws: Amazon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MAX_IDENTITIES", 2)
    connector = AthenaConnector(setup_at(aws, credentials="chain"))
    kept = connector._clients
    own = of_task(OWN)
    first = kept.client("athena", "us-east-1", own)
    assert kept.client("athena", "us-east-1", own) is first
    assert kept.client("athena", "us-east-2", own) is not first
    assert kept.client("athena", "us-east-1", of_task({**OWN, "aws_session_token": "t"})) is not first
    kept.client("athena", "us-east-1", Connection())
    assert kept.client("athena", "us-east-1", own) is not first
    assert "t4sk-s3cret" not in repr(kept.__dict__)
    monkeypatch.setattr(clients, "MAX_CLIENTS", 2)
    first = kept.client("athena", "us-east-1", own)
    for region in ("us-east-2", "eu-west-1"):
        kept.client("athena", region, own)
    assert kept.client("athena", "us-east-1", own) is not first
    await connector.close()


async def test_missing_secret_of_the_service_is_named(aws: Amazon) -> None:
    connector = AthenaConnector(connector_setup(secrets={"aws_access_key_id": "x"}, sections={"aws": section(aws)}))
    with pytest.raises(PermanentError, match=r"aws_secret_access_key"):
        await get(connector, QueryMeta("q", "us-east-1"))


def test_boto3_is_imported_when_it_is_first_used() -> None:
    program = "import sys; import propfan.plugins.connectors.aws; sys.exit('boto3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content", "digest"),
    [
        (b"", "ef46db3751d8e999"),
        (b"a", "d24ec4f1a98c6e5b"),
        (b"abc", "44bc2cf5ad770999"),
        (b"{A: m-{idempotence_token}, B: 3, Z: {b: [{a: 2, q: 1}], y: 1}}", "2e87540c7109e643"),
    ],
)
def test_hash_is_xxh64(content: bytes, digest: str) -> None:
    assert hexdigest(content) == digest
