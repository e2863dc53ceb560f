"""Section ``connectors.aws`` of the connector service."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta


class CredentialSource(enum.Enum):
    """Where credentials come from when the task brings none."""

    CHAIN = "chain"
    SECRETS = "secrets"


class AthenaConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """What queries say that their tasks leave open.

    Attributes:
        output_location: ``s3://`` URI below which results are kept; ``workgroup`` leaves it to the workgroup's
            settings. Empty: below the task's own output prefix when that is in S3, else the workgroup's.
        workgroup: Of tasks that name none; empty leaves it to Athena, which takes ``primary``.
        catalog: Likewise; Athena takes ``AwsDataCatalog``.
    """

    output_location: str = ""
    workgroup: str = ""
    catalog: str = ""


class AwsConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """How AWS is reached, and what tasks may ask of it.

    Attributes:
        region: Of tasks that name none; empty leaves it to ``AWS_REGION`` and boto3's own settings.
        endpoint_url: In place of AWS's own addresses, for all services; ``AWS_ENDPOINT_URL`` serves as well.
        credentials: ``chain`` is AWS's own (variables, files, the role of the pod or machine), ``secrets`` the
            service's secrets ``aws_access_key_id``, ``aws_secret_access_key``, ``aws_session_token``.
        role_arn: Assumed with the service's credentials; a task's own credentials are used as they are.
        external_id: What that role asks for, if it does.
        allowed: Service to methods that ``boto`` tasks may call, ``*`` for all of a service; empty allows everything.
        tag_endpoints: Endpoints carry the name of the attempt that made them, so that no task ever deletes one that
            another one made. Needs ``sagemaker:AddTags``.
        attempts: Of one call, with boto3's pauses between them.
        connect_timeout_s: Of one attempt, seconds.
        read_timeout_s: Without any news during one attempt, seconds. SageMaker's models answer within 60 s.
    """

    region: str = ""
    endpoint_url: str = ""
    credentials: CredentialSource = CredentialSource.CHAIN
    role_arn: str = ""
    external_id: str = ""
    allowed: Mapping[str, Sequence[str]] = {}
    tag_endpoints: bool = True
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    connect_timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    read_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    athena: AthenaConfig = AthenaConfig()
