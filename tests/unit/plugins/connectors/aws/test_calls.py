"""Tasks of type ``boto``."""

from __future__ import annotations

import base64
from typing import Any

import anyio
import msgspec
import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PermanentError, TransientError
from propfan.pluginmachinery.testing.connector_contract import JobStory, SyncConnectorContract
from propfan.plugins.connectors.aws import idempotence
from propfan.plugins.connectors.aws.arguments import MAX_RESULT_BYTES
from propfan.plugins.connectors.aws.calls import BotoConnector
from propfan.plugins.connectors.placeholders import Placeholders
from tests.unit.plugins.connectors.aws.amazon import Amazon, Answer, refusal
from tests.unit.plugins.connectors.aws.rig import MODEL, boto_task, do, setup_at

pytestmark = pytest.mark.anyio

MODEL_ARN = "arn:aws:sagemaker:us-east-1:123456789012:model"


class TestContract(SyncConnectorContract):
    connector_class = BotoConnector
    stories = (
        JobStory(
            "makes a model",
            boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m-{idempotence_token}"}),
            RemotePhase.SUCCEEDED,
        ),
        JobStory(
            "makes a model of a name",
            boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "plain"}),
            RemotePhase.SUCCEEDED,
            {"result": {"ModelArn": f"{MODEL_ARN}/plain"}, "idempotence_token": ""},
        ),
    )

    @pytest.fixture
    def setup_ctx(self, aws: Amazon) -> ConnectorSetup:
        return setup_at(aws)


@pytest.fixture
def connector(setup_ctx: ConnectorSetup) -> BotoConnector:
    return BotoConnector(setup_ctx)


async def result_of(connector: BotoConnector, task: TaskRequest) -> Any:
    resource = await do(connector, task)
    assert resource.phase is RemotePhase.SUCCEEDED
    assert resource.outputs is not None
    return resource.outputs["result"]


async def test_any_service_answers(connector: BotoConnector) -> None:
    queue = await result_of(connector, boto_task("sqs", "create_queue", {"QueueName": "work"}))
    sent = boto_task(
        "sqs", "send_message", {"QueueUrl": "{inputs.url}", "MessageBody": "hello"}, {"url": queue["QueueUrl"]}
    )
    assert "MessageId" in await result_of(connector, sent)
    table = {
        "TableName": "t",
        "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}],
        "ProvisionedThroughput": {"ReadCapacityUnits": 5, "WriteCapacityUnits": 5},
    }
    made = await result_of(connector, boto_task("dynamodb", "create_table", table))
    assert made["TableDescription"]["TableName"] == "t"
    assert made["TableDescription"]["CreationDateTime"].startswith("20"), "times are texts"
    item = {"TableName": "t", "Item": {"k": {"S": "a"}, "n": {"N": "{inputs.n}"}}}
    with pytest.raises(BadTaskSpecificationError, match=r"dynamodb: put_item: .*Item\.n\.N"):
        await do(connector, boto_task("dynamodb", "put_item", item, {"n": 3}))
    item["Item"] = {"k": {"S": "a"}, "n": {"N": "{inputs.n}"}}
    await do(connector, boto_task("dynamodb", "put_item", item, {"n": "3"}))
    key = {"TableName": "t", "Key": {"k": {"S": "a"}}}
    assert (await result_of(connector, boto_task("dynamodb", "get_item", key)))["Item"]["n"] == {"N": "3"}


async def test_bodies_are_outputs(connector: BotoConnector) -> None:
    await do(connector, boto_task("s3", "create_bucket", {"Bucket": "shelf"}))
    for key, body in (("text", "héllo"), ("empty", "")):
        await do(connector, boto_task("s3", "put_object", {"Bucket": "shelf", "Key": key, "Body": body}))
        answer = await result_of(connector, boto_task("s3", "get_object", {"Bucket": "shelf", "Key": key}))
        assert answer["Body"] == body
        assert "ResponseMetadata" not in answer


async def test_bytes_that_are_no_text_are_base64(connector: BotoConnector, aws: Amazon) -> None:
    blob = b"\x80\xff\x00"
    answer = {"KeyId": "k", "Plaintext": base64.b64encode(blob).decode()}
    aws.faults["Decrypt"] = [Answer(200, msgspec.json.encode(answer))]
    result = await result_of(connector, boto_task("kms", "decrypt", {"CiphertextBlob": "x"}))
    assert base64.b64decode(result["Plaintext"]) == blob


async def test_large_bodies_are_refused(connector: BotoConnector) -> None:
    await do(connector, boto_task("s3", "create_bucket", {"Bucket": "shelf"}))
    body = "x" * (MAX_RESULT_BYTES + 1)
    await do(connector, boto_task("s3", "put_object", {"Bucket": "shelf", "Key": "k", "Body": body}))
    with pytest.raises(BadTaskSpecificationError, match=r"result\.Body has more than 2097152 bytes"):
        await do(connector, boto_task("s3", "get_object", {"Bucket": "shelf", "Key": "k"}))


async def test_what_exists_already_is_a_success_with_its_arn(connector: BotoConnector, aws: Amazon) -> None:
    task = boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m"})
    assert await result_of(connector, task) == await result_of(connector, task) == {"ModelArn": f"{MODEL_ARN}/m"}
    assert aws.count("CreateModel") == 2


@pytest.mark.parametrize(
    ("config", "token"),
    [
        ({"A": "m-{idempotence_token}", "B": "{inputs.n}", "Z": {"y": 1, "b": [{"q": 1, "a": 2}]}}, "2e87540c7109e643"),
        (
            {"A": "{idempotence_token}", "f": 1, "n": None, "t": True, "l": [1.5, "q: x, y", []], "e": {}},
            "33a29e32287e8fbb",
        ),
        ({"A": "m-{idempotence_token}"}, "80cb1f1b2e6a2b96"),
        ({"A": "m"}, ""),
    ],
)
def test_token_is_that_of_flytes_connector(config: dict[str, Any], token: str) -> None:
    """Recorded with flytekitplugins-awssagemaker 1.16.31."""
    filled = idempotence.formatted(config, Placeholders({"inputs": {"n": 3}}), "custom.config")
    assert filled.token == token
    assert filled.arguments["A"] == config["A"].replace("{idempotence_token}", token)


async def test_idempotency_token_is_the_attempts_own(connector: BotoConnector, aws: Amazon) -> None:
    def task(attempt: int, **more: str) -> TaskRequest:
        return boto_task("athena", "start_query_execution", {"QueryString": "select 1", **more}, attempt=attempt)

    first = await result_of(connector, task(0))
    assert await result_of(connector, task(0)) == first
    assert await result_of(connector, task(1)) != first
    own = "t" * 32
    await do(connector, task(2, ClientRequestToken=own))
    assert aws.last("StartQueryExecution").arguments["ClientRequestToken"] == own


async def test_region_of_a_workflow_is_its_input(connector: BotoConnector) -> None:
    config = {**MODEL, "ModelName": "m"}
    answer = await result_of(
        connector, boto_task("sagemaker", "create_model", config, {"region": "eu-west-1"}, region=None)
    )
    assert ":eu-west-1:" in answer["ModelArn"]
    task = boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "n"}, {"r": "eu-west-3"}, region="{inputs.r}")
    assert ":eu-west-3:" in (await result_of(connector, task))["ModelArn"]


@pytest.mark.parametrize(
    ("service", "method", "problem"),
    [
        ("sagemakr", "create_model", r"custom\.service: boto3 knows no service 'sagemakr'; did you mean sagemaker"),
        ("../../etc", "create_model", r"custom\.service: boto3 knows no service"),
        ("", "create_model", r"custom\.service"),
        (
            "sagemaker",
            "create_modle",
            r"custom\.method: 'sagemaker' has no operation 'create_modle'; did you mean create_model",
        ),
        ("sagemaker", "CreateModel", r"custom\.method: 'sagemaker' has no operation"),
        *(
            ("s3", name, rf"custom\.method: 's3' has no operation '{name}'")
            for name in ("__class__", "_make_api_call", "meta", "get_waiter", "upload_file", "generate_presigned_url")
        ),
    ],
)
async def test_only_operations_are_called(
    connector: BotoConnector, aws: Amazon, service: str, method: str, problem: str
) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await do(connector, boto_task(service, method, {}))
    assert aws.calls == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({}, r"sagemaker: create_model: .*Missing required parameter.*ModelName"),
        ({"ModelName": 3}, r"Invalid type for parameter ModelName"),
        ({"ModelName": "m", "Color": "red"}, r"Unknown parameter.*Color"),
        ({"self": "x"}, r"custom\.config\.self"),
        ({"ModelName": "{inputs.nmae}"}, r"custom\.config\.ModelName: there is no 'inputs\.nmae'; inputs are: name"),
        (
            {"Tags": [{"Key": "{images.x}"}]},
            r"custom\.config\.Tags\[0\]\.Key: there is no 'images\.x'; images are: none",
        ),
        ({"ModelName": "{inputs.name.__class__}"}, r"there is no 'inputs\.name\.__class__'"),
    ],
)
async def test_wrong_arguments_are_named(connector: BotoConnector, config: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        await do(connector, boto_task("sagemaker", "create_model", config, {"name": "m"}))


async def test_braces_of_json_stay(connector: BotoConnector, aws: Amazon) -> None:
    policy = '{"Version": "{0}", "x": "{foo.bar}"}'
    await do(connector, boto_task("sqs", "create_queue", {"QueueName": "q", "Attributes": {"Policy": policy}}))
    assert aws.last("CreateQueue").arguments["Attributes"]["Policy"] == policy


async def test_operator_says_what_may_be_called(aws: Amazon) -> None:
    allowed = {"sqs": ["create_queue"], "s3": ["*"]}
    connector = BotoConnector(setup_at(aws, allowed=allowed))
    await do(connector, boto_task("sqs", "create_queue", {"QueueName": "q"}))
    await do(connector, boto_task("s3", "create_bucket", {"Bucket": "shelf"}))
    for service, method in (("sqs", "delete_queue"), ("iam", "create_user")):
        with pytest.raises(PermanentError, match=rf"'{service}\.{method}' is not among .*s3: \*; sqs: create_queue"):
            await do(connector, boto_task(service, method, {}))


async def test_role_without_use_for_its_id_is_refused(aws: Amazon) -> None:
    with pytest.raises(ConfigError, match=r"external-id"):
        BotoConnector(setup_at(aws, **{"external-id": "x"}))


async def test_throttling_says_when_to_come_back(connector: BotoConnector, aws: Amazon) -> None:
    aws.faults["CreateModel"] = [refusal("ThrottlingException", "Rate exceeded", headers={"Retry-After": "7"})]
    with pytest.raises(TransientError, match=r"create_model: ThrottlingException: Rate exceeded") as caught:
        await do(connector, boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m"}))
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "RequestLimitExceeded", TransientError),
        (503, "ServiceUnavailable", TransientError),
        (500, "SomethingNew", TransientError),
        (429, "SomethingNew", TransientError),
        (400, "UnrecognizedClientException", PermanentError),
        (403, "SomethingNew", PermanentError),
        (400, "AccessDeniedException", PermanentError),
        (400, "ExpiredTokenException", PermanentError),
        (400, "ResourceLimitExceeded", PermanentError),
        (400, "ValidationException", BadTaskSpecificationError),
    ],
)
async def test_errors_say_what_to_do(
    connector: BotoConnector, aws: Amazon, status: int, code: str, kind: type[Exception]
) -> None:
    aws.faults["CreateModel"] = [refusal(code, "because", status)]
    with pytest.raises(kind, match=rf"sagemaker: create_model: .*{code}: because") as caught:
        await do(connector, boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m"}))
    assert type(caught.value) is kind


async def test_refused_signature_does_not_show_what_was_signed(connector: BotoConnector, aws: Amazon) -> None:
    message = "The signature does not match.\n\nThe Canonical String should have been\nx-amz-security-token:s3cret"
    aws.faults["CreateModel"] = [refusal("SignatureDoesNotMatch", message, 403)]
    with pytest.raises(PermanentError, match=r"The signature does not match\.$") as caught:
        await do(connector, boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m"}))
    assert "s3cret" not in str(caught.value)


async def test_calls_of_many_threads_share_a_client(connector: BotoConnector, aws: Amazon) -> None:
    async with anyio.create_task_group() as group:
        for number in range(12):
            task = boto_task("sqs", "create_queue", {"QueueName": f"q{number}"})
            group.start_soon(do, connector, task)
    assert aws.count("CreateQueue") == 12
    await connector.close()
