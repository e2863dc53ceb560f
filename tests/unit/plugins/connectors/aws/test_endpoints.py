"""Tasks of type ``sagemaker-endpoint``."""

from __future__ import annotations

import botocore.session
import pytest

from propfan.pluginmachinery.connector import ConnectorSetup, RemotePhase
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.testing.connector_contract import ConnectorContract, JobStory
from propfan.plugins.connectors.aws.calls import BotoConnector
from propfan.plugins.connectors.aws.endpoints import ATTEMPT_TAG, PHASES, EndpointMeta, SageMakerEndpointConnector
from tests.unit.plugins.connectors.aws.amazon import Amazon, refusal
from tests.unit.plugins.connectors.aws.rig import MODEL, boto_task, create, delete, do, endpoint_task, get, setup_at

pytestmark = pytest.mark.anyio

ARN = "arn:aws:sagemaker:us-east-1:123456789012:endpoint"
VARIANTS = [{"VariantName": "v1", "ModelName": "m", "InitialInstanceCount": 1, "InstanceType": "ml.t2.medium"}]


async def made_configurations(aws: Amazon) -> None:
    """A model, and the endpoint configurations ``c1`` and ``c2``."""
    boto = BotoConnector(setup_at(aws))
    await do(boto, boto_task("sagemaker", "create_model", {**MODEL, "ModelName": "m"}))
    for name in ("c1", "c2"):
        config = {"EndpointConfigName": name, "ProductionVariants": VARIANTS}
        await do(boto, boto_task("sagemaker", "create_endpoint_config", config))
    aws.calls.clear()


class TestContract(ConnectorContract):
    connector_class = SageMakerEndpointConnector
    stories = (
        JobStory(
            "comes into service",
            endpoint_task("good"),
            RemotePhase.SUCCEEDED,
            {"result": {"EndpointArn": f"{ARN}/good"}},
            "endpoint 'good': InService",
        ),
        JobStory(
            "has no capacity",
            endpoint_task("bad", run="r2"),
            RemotePhase.FAILED,
            message="endpoint 'bad' failed: no capacity; delete it before",
        ),
        JobStory("is deleted by another", endpoint_task("lost", run="r3"), RemotePhase.ABORTED, message="'lost'"),
    )

    @pytest.fixture
    async def setup_ctx(self, aws: Amazon) -> ConnectorSetup:
        await made_configurations(aws)
        aws.endpoint_states = {"bad": ("Failed", "no capacity"), "lost": ("Deleting", "")}
        return setup_at(aws)


@pytest.fixture
async def connector(aws: Amazon) -> SageMakerEndpointConnector:
    await made_configurations(aws)
    return SageMakerEndpointConnector(setup_at(aws))


def test_all_states_of_the_api_are_known() -> None:
    model = botocore.session.get_session().get_service_model("sagemaker")
    assert set(PHASES) == set(model.shape_for("EndpointStatus").enum)


@pytest.mark.parametrize(("status", "phase"), PHASES.items())
async def test_states_are_told(
    connector: SageMakerEndpointConnector, aws: Amazon, status: str, phase: RemotePhase
) -> None:
    meta = await create(connector, endpoint_task())
    aws.endpoint_states["shop"] = (status, "because")
    resource = await get(connector, meta)
    assert resource.phase is phase
    assert "shop" in resource.message
    assert (resource.outputs is not None) == (status == "InService")
    page, logs = resource.log_links
    assert page.uri == "https://us-east-1.console.aws.amazon.com/sagemaker/home?region=us-east-1#/endpoints/shop"
    assert logs.uri.endswith("log-group/$252Faws$252Fsagemaker$252FEndpoints$252Fshop")
    expected = {"status": status, "endpoint_arn": f"{ARN}/shop", "endpoint_config": "c1"}
    assert resource.custom_info == expected


async def test_unknown_state_is_named(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    meta = await create(connector, endpoint_task())
    aws.endpoint_states["shop"] = ("Hibernating", "")
    with pytest.raises(TransientError, match=r"'shop' has a status that is not known here: 'Hibernating'"):
        await get(connector, meta)


async def test_endpoint_without_a_name_has_the_attempts(connector: SageMakerEndpointConnector) -> None:
    task = endpoint_task(config={"EndpointConfigName": "c1"})
    assert (await create(connector, task)).name == task.unique_name()


async def test_placeholders_are_filled(connector: SageMakerEndpointConnector) -> None:
    name = (await create(connector, endpoint_task("e-{idempotence_token}"))).name
    assert len(name) == len("e-") + 16


async def test_attempt_is_told_from_others_by_its_tag(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    config = {"EndpointName": "shop", "EndpointConfigName": "c1", "Tags": [{"Key": "team", "Value": "web"}]}
    task = endpoint_task(config=config)
    assert (await create(connector, task)).is_own
    own = {"Key": ATTEMPT_TAG, "Value": task.unique_name()}
    assert aws.last("CreateEndpoint").arguments["Tags"] == [{"Key": "team", "Value": "web"}, own]
    assert (await create(connector, task)).is_own
    assert not (await create(connector, endpoint_task(run="r2"))).is_own


async def test_tags_that_are_no_list_are_refused(connector: SageMakerEndpointConnector) -> None:
    config = {"EndpointName": "shop", "EndpointConfigName": "c1", "Tags": "x"}
    with pytest.raises(BadTaskSpecificationError, match=r"custom\.config\.Tags: must be a list"):
        await create(connector, endpoint_task(config=config))


async def test_endpoint_of_another_is_used_and_never_deleted(
    connector: SageMakerEndpointConnector, aws: Amazon
) -> None:
    own = await create(connector, endpoint_task())
    borrowed = await create(connector, endpoint_task(run="r2"))
    assert (await get(connector, borrowed)).phase is RemotePhase.SUCCEEDED
    await delete(connector, borrowed)
    assert aws.count("DeleteEndpoint") == 0
    await delete(connector, own)
    assert (await get(connector, borrowed)).phase is RemotePhase.ABORTED


async def test_endpoint_of_another_configuration_is_refused(connector: SageMakerEndpointConnector) -> None:
    await create(connector, endpoint_task())
    with pytest.raises(BadTaskSpecificationError, match=r"'shop' exists with the configuration 'c1', not 'c2'.*update"):
        await create(connector, endpoint_task(config_name="c2", run="r2"))


async def test_name_that_is_not_free_yet_is_waited_for(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    await create(connector, endpoint_task())
    aws.endpoint_states["shop"] = ("Deleting", "")
    with pytest.raises(TransientError, match=r"'shop' is being deleted"):
        await create(connector, endpoint_task(run="r2"))


async def test_without_tags_only_what_was_made_is_own(aws: Amazon) -> None:
    await made_configurations(aws)
    connector = SageMakerEndpointConnector(setup_at(aws, **{"tag-endpoints": False}))
    assert (await create(connector, endpoint_task())).is_own
    assert "Tags" not in aws.last("CreateEndpoint").arguments
    assert not (await create(connector, endpoint_task())).is_own


async def test_endpoint_that_is_being_made_is_deleted_later(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    meta = await create(connector, endpoint_task())
    aws.endpoint_states["shop"] = ("Creating", "")
    with pytest.raises(TransientError, match=r"'shop' can not be deleted while its status is Creating"):
        await delete(connector, meta)
    del aws.endpoint_states["shop"]
    await delete(connector, meta)
    assert (await get(connector, meta)).phase is RemotePhase.ABORTED


async def test_deletion_that_is_refused_for_other_reasons_is_told(
    connector: SageMakerEndpointConnector, aws: Amazon
) -> None:
    meta = await create(connector, endpoint_task())
    aws.faults["DeleteEndpoint"] = [refusal("ValidationException", "no")] * 2
    with pytest.raises(BadTaskSpecificationError, match=r"delete endpoint 'shop': ValidationException: no"):
        await delete(connector, meta)
    aws.endpoint_states["shop"] = ("Deleting", "")
    await delete(connector, meta)


async def test_endpoint_is_asked_by_a_call(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    """As ``SageMakerInvokeEndpointTask`` does."""
    await create(connector, endpoint_task())
    config = {"EndpointName": "shop", "InputLocation": "s3://questions/{inputs.n}.json"}
    asked = await do(
        BotoConnector(setup_at(aws)), boto_task("sagemaker-runtime", "invoke_endpoint_async", config, {"n": 1})
    )
    assert asked.outputs is not None
    assert asked.outputs["result"]["OutputLocation"].startswith("s3://")


async def test_configuration_that_is_too_new_is_waited_for(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    unseen = refusal("ValidationException", 'Could not find endpoint configuration "arn:c1".')
    aws.faults["CreateEndpoint"] = [unseen]
    with pytest.raises(TransientError, match=r"configuration 'c1' is so new"):
        await create(connector, endpoint_task())
    aws.faults["CreateEndpoint"] = [unseen]
    with pytest.raises(BadTaskSpecificationError, match=r"create endpoint 'shop': .*none"):
        await create(connector, endpoint_task(config_name="none"))


async def test_quota_is_no_reason_to_ask_again(connector: SageMakerEndpointConnector, aws: Amazon) -> None:
    aws.faults["CreateEndpoint"] = [refusal("ResourceLimitExceeded", "ml.p3 for endpoint usage is 0 Instances")]
    with pytest.raises(PermanentError, match=r"ml\.p3 for endpoint usage"):
        await create(connector, endpoint_task())


@pytest.mark.parametrize("action", ["DescribeEndpoint", "DeleteEndpoint"])
async def test_faults_of_looks_are_transient(connector: SageMakerEndpointConnector, aws: Amazon, action: str) -> None:
    meta = await create(connector, endpoint_task())
    aws.faults[action] = [refusal("ThrottlingException", "Rate exceeded", headers={"Retry-After": "3"})]
    with pytest.raises(TransientError, match=r"endpoint 'shop': ThrottlingException") as caught:
        await (get if action == "DescribeEndpoint" else delete)(connector, meta)
    assert caught.value.retry_after_s == 3.0


async def test_meta_of_an_earlier_version_is_read() -> None:
    assert EndpointMeta.decode(b'{"name":"shop","region":"us-east-1"}').is_own
