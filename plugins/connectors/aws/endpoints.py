"""Tasks of type ``sagemaker-endpoint``: an endpoint of SageMaker, until it is in service.

States and errors as the SageMaker API of 2017-07-24 documents them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connection,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, TransientError
from propfan.plugins.connectors.aws import arguments, console, idempotence
from propfan.plugins.connectors.aws.calls import ALREADY_EXISTS, placeholders_of, region_of
from propfan.plugins.connectors.aws.clients import Clients
from propfan.plugins.connectors.aws.failures import code_of, message_of, told

ATTEMPT_TAG: Final = "propfan.dev/attempt"
"""Of an endpoint: the attempt that made it."""

_NO_ENDPOINT: Final = "Could not find endpoint "
_NO_CONFIG: Final = "Could not find endpoint config"
_INVALID: Final = "ValidationException"
"""The code of both messages, and of nearly everything else that SageMaker refuses."""

PHASES: Final[Mapping[str, RemotePhase]] = {
    "Creating": RemotePhase.RUNNING,
    "Updating": RemotePhase.RUNNING,
    "SystemUpdating": RemotePhase.RUNNING,
    "RollingBack": RemotePhase.RUNNING,
    "InService": RemotePhase.SUCCEEDED,
    "OutOfService": RemotePhase.FAILED,
    "Failed": RemotePhase.FAILED,
    "UpdateRollbackFailed": RemotePhase.FAILED,
    "Deleting": RemotePhase.ABORTED,
}
"""By ``EndpointStatus``."""


class EndpointSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task.

    Attributes:
        config: Arguments of ``create_endpoint``, with placeholders; without ``EndpointName`` it gets the attempt's.
        region: As of a ``boto`` task.
    """

    config: dict[str, Any]
    region: str | None = None
    images: dict[str, Any] | None = None


class EndpointMeta(ResourceMeta, frozen=True):
    """What finds the endpoint again.

    Attributes:
        is_own: The task made it. An endpoint that was there before is used, and never deleted.
    """

    name: str
    region: str
    is_own: bool = True


class SageMakerEndpointConnector(AsyncConnector[EndpointMeta]):
    """Makes an endpoint, or takes the one that is there with the same configuration.

    An endpoint can not be deleted while it is being made: ``delete`` then asks to be called again.
    """

    name = "SageMaker Endpoint Connector"
    categories = (TaskCategory("sagemaker-endpoint"),)
    meta_type = EndpointMeta
    max_concurrent_calls = 50

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._clients: Final = Clients(self)

    def create(self, task: TaskRequest) -> EndpointMeta:
        from botocore.exceptions import ClientError

        spec = task.custom(EndpointSpec)
        placeholders = placeholders_of(task, spec.images)
        request = idempotence.formatted(spec.config, placeholders, "custom.config").arguments
        attempt = task.unique_name()
        name = request.setdefault("EndpointName", attempt)
        if self._clients.config.tag_endpoints:
            tags = request.get("Tags", [])
            if not isinstance(tags, list):
                raise BadTaskSpecificationError("custom.config.Tags: must be a list of tags")
            request["Tags"] = [*tags, {"Key": ATTEMPT_TAG, "Value": attempt}]
        client = self._client(region_of(spec.region, placeholders), task.connection)
        is_own = True
        with told(f"sagemaker: create endpoint '{name}'", self.setup):
            try:
                arguments.call(client, "create_endpoint", request)
            except ClientError as error:
                text = message_of(error)
                if _NO_CONFIG in text:
                    self._look_for_config(client, request)
                if ALREADY_EXISTS not in text:
                    raise
                is_own = self._is_own_existing(client, request, attempt)
        return EndpointMeta(name, client.meta.region_name, is_own)

    def get(self, meta: EndpointMeta, job: JobContext) -> Resource:
        client = self._client(meta.region, job.connection)
        found = self._described(client, meta.name)
        if found is None:
            return Resource(RemotePhase.ABORTED, f"endpoint '{meta.name}' is gone: somebody deleted it")
        status = str(found["EndpointStatus"])
        phase = PHASES.get(status)
        if phase is None:
            problem = f"endpoint '{meta.name}' has a status that is not known here: '{status[:100]}'"
            raise TransientError("", f"sagemaker: {problem}")
        arn = str(found["EndpointArn"])
        page = console.link(client, "SageMaker endpoint", "sagemaker", f"/endpoints/{quote(meta.name)}")
        logs = console.log_group(client, f"/aws/sagemaker/Endpoints/{meta.name}")
        return Resource(
            phase,
            _explanation(meta.name, status, str(found.get("FailureReason", ""))),
            [page, logs],
            {"result": {"EndpointArn": arn}} if phase is RemotePhase.SUCCEEDED else None,
            {"status": status, "endpoint_arn": arn, "endpoint_config": str(found.get("EndpointConfigName", ""))},
        )

    def delete(self, meta: EndpointMeta, job: JobContext) -> None:
        from botocore.exceptions import ClientError

        if not meta.is_own:
            return
        client = self._client(meta.region, job.connection)
        with told(f"sagemaker: delete endpoint '{meta.name}'", self.setup):
            try:
                client.delete_endpoint(EndpointName=meta.name)
            except ClientError as error:
                if code_of(error) != _INVALID:
                    raise
                found = self._described(client, meta.name)
                status = "Deleting" if found is None else str(found["EndpointStatus"])
                if status == "Deleting":
                    return
                if PHASES.get(status) is not RemotePhase.RUNNING:
                    raise
                problem = f"endpoint '{meta.name}' can not be deleted while its status is {status}"
                raise TransientError("", f"sagemaker: {problem}") from None

    async def close(self) -> None:
        self._clients.close()

    def _client(self, region: str, connection: Connection) -> Any:
        return self._clients.client("sagemaker", region, connection)

    def _described(self, client: Any, name: str) -> Mapping[str, Any] | None:
        """``None`` when there is no such endpoint."""
        from botocore.exceptions import ClientError

        with told(f"sagemaker: describe endpoint '{name}'", self.setup):
            try:
                found: Mapping[str, Any] = client.describe_endpoint(EndpointName=name)
            except ClientError as error:
                if _NO_ENDPOINT not in message_of(error):
                    raise
                return None
        return found

    def _look_for_config(self, client: Any, request: Mapping[str, Any]) -> None:
        """Whether a configuration that ``create_endpoint`` does not see is there; raises an error of boto3 if not.

        SageMaker's own reads lag behind its writes, and workflows make the configuration just before.
        """
        name = request["EndpointConfigName"]
        client.describe_endpoint_config(EndpointConfigName=name)
        raise TransientError(
            "", f"sagemaker: endpoint configuration '{name}' is so new that endpoints do not see it yet"
        )

    def _is_own_existing(self, client: Any, request: Mapping[str, Any], attempt: str) -> bool:
        """Whether the endpoint that is there is of an earlier call for the same attempt.

        Raises:
            BadTaskSpecificationError: it serves another configuration.
            TransientError: it is on its way out.
        """
        name = request["EndpointName"]
        found = self._described(client, name)
        if found is None:
            raise TransientError("", f"sagemaker: endpoint '{name}' was deleted just now")
        if self._clients.config.tag_endpoints:
            tags = client.list_tags(ResourceArn=found["EndpointArn"])["Tags"]
            if {"Key": ATTEMPT_TAG, "Value": attempt} in tags:
                return True
        if found["EndpointStatus"] == "Deleting":
            raise TransientError("", f"sagemaker: endpoint '{name}' is being deleted, and its name not free yet")
        there, wanted = found["EndpointConfigName"], request["EndpointConfigName"]
        if there != wanted:
            problem = f"endpoint '{name}' exists with the configuration '{there}', not '{wanted}'"
            raise BadTaskSpecificationError(
                f"custom.config.EndpointName: {problem}: delete it, or call update_endpoint in a boto task"
            )
        return False


def _explanation(name: str, status: str, reason: str) -> str:
    match status:
        case "OutOfService":
            return f"endpoint '{name}' takes no requests: its status is OutOfService. {reason}".strip()
        case "UpdateRollbackFailed":
            told = f"endpoint '{name}' serves a mix of two configurations: its update and the way back both failed"
            return f"{told}: {reason}" if reason else told
        case "Failed":
            way_out = "delete it before a task makes it again"
            return f"endpoint '{name}' failed: {reason or 'SageMaker gives no reason'}; {way_out}"
        case "Deleting":
            return f"endpoint '{name}' is being deleted"
        case _:
            return f"endpoint '{name}': {status}"
