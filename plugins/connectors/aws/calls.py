"""Tasks of type ``boto``: one call of any service that boto3 knows."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from propfan.pluginmachinery.connector import (
    ConnectorSetup,
    RemotePhase,
    Resource,
    SyncConnector,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.plugins.connectors.aws import arguments, idempotence
from propfan.plugins.connectors.aws.clients import Clients
from propfan.plugins.connectors.aws.failures import message_of, told
from propfan.plugins.connectors.http_answers import NOT_ALLOWED
from propfan.plugins.connectors.placeholders import Placeholders

ALREADY_EXISTS: Final = "Cannot create already existing"
"""How SageMaker answers to a second creation (``ValidationException``)."""

_ARN: Final = re.compile(r"arn:[^\s\"']+")
_TOKENS: Final = uuid.UUID("b0f0a5b0-2f67-4b61-9e0c-5a1d3a5a3c1e")
"""Namespace of the idempotency tokens that are made of attempts' names."""


class BotoSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task.

    Attributes:
        config: Arguments of the method, with placeholders.
        region: Without one the input ``region`` counts, which workflows of SageMaker have, else the configured one.
        images: What ``{images.x}`` stands for.
    """

    service: str
    method: str
    config: dict[str, Any] | None = None
    region: str | None = None
    images: dict[str, Any] | None = None


def placeholders_of(task: TaskRequest, images: Mapping[str, Any] | None) -> Placeholders:
    """What ``{inputs.x}`` and ``{images.x}`` stand for; boto3 takes times and bytes as they are."""
    return Placeholders({"inputs": task.inputs(), "images": images or {}}, is_json=False)


def region_of(region: str | None, placeholders: Placeholders) -> str:
    """The region that a task names in its ``custom`` or as its input; empty when it names none."""
    if region:
        return placeholders.text(region, "custom.region")
    at_run_time = placeholders.kinds["inputs"].get("region")
    return at_run_time if isinstance(at_run_time, str) else ""


class BotoConnector(SyncConnector):
    """Calls the method and answers with what AWS answers.

    A call may be made again, as of any task. What SageMaker has created already counts as created. Operations
    that take an idempotency token get one of the attempt's own, so that AWS itself does them once.
    """

    name = "Boto Connector"
    categories = (TaskCategory("boto"),)
    max_concurrent_calls = 50

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._clients: Final = Clients(self)

    def do(self, task: TaskRequest) -> Resource:
        spec = task.custom(BotoSpec)
        self._check_allowed(spec)
        placeholders = placeholders_of(task, spec.images)
        client = self._clients.client(spec.service, region_of(spec.region, placeholders), task.connection)
        operation = arguments.operation(client, spec.method)
        filled = idempotence.formatted(spec.config or {}, placeholders, "custom.config")
        sent = {**_idempotency(operation, task), **filled.arguments}
        what = f"{spec.service}: {spec.method}"
        with told(what, self.setup):
            answer = self._answer(client, spec.method, sent, operation)
            result = arguments.result(answer)
        request = answer.get("ResponseMetadata", {}).get("RequestId", "")
        info = {"service": spec.service, "method": spec.method, "region": client.meta.region_name}
        return Resource(
            RemotePhase.SUCCEEDED,
            f"{what} is done",
            outputs={"result": result, "idempotence_token": filled.token},
            custom_info={**info, "request_id": request} if request else info,
        )

    async def close(self) -> None:
        self._clients.close()

    def _check_allowed(self, spec: BotoSpec) -> None:
        allowed = self._clients.config.allowed
        if not allowed:
            return
        methods = allowed.get(spec.service, ())
        if spec.method not in methods and "*" not in methods:
            there = "; ".join(f"{service}: {', '.join(methods)}" for service, methods in sorted(allowed.items()))
            problem = f"'{spec.service}.{spec.method}' is not among what connectors.aws.allowed has ({there})"
            raise PermanentError(NOT_ALLOWED, f"custom.method: {problem}: ask who runs the connector service")

    def _answer(self, client: Any, method: str, sent: Mapping[str, Any], operation: Any) -> Mapping[str, Any]:
        from botocore.exceptions import ClientError

        try:
            return arguments.call(client, method, sent)
        except ClientError as error:
            text = message_of(error)
            if ALREADY_EXISTS not in text:
                raise
            return _existing(operation, text)


def _existing(operation: Any, text: str) -> dict[str, Any]:
    """What the creation would have answered, as far as the error tells."""
    members = operation.output_shape.members if operation.output_shape is not None else {}
    name = next((member for member in members if member.endswith("Arn")), "Arn")
    arn = _ARN.search(text)
    return {name: arn[0].rstrip(".")} if arn else {}


def _idempotency(operation: Any, task: TaskRequest) -> dict[str, str]:
    """The operation's idempotency tokens; boto3 would make up others in each call."""
    members = operation.idempotent_members
    if not members:
        return {}
    try:
        name = task.unique_name()
    except BadTaskSpecificationError:  # nothing tells the attempt apart, in an SDK's local run
        return {}
    return dict.fromkeys(members, str(uuid.uuid5(_TOKENS, name)))
