"""What errors of boto3 mean for a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from propfan.pluginmachinery.connector import ConnectorSetup, HttpResponse
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TaskError, TransientError
from propfan.plugins.connectors.http_answers import NOT_ALLOWED, retry_after_s

THROTTLING: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)
"""Codes after which AWS's SDKs try again later ("Retry behavior" of the AWS SDKs and Tools Reference Guide)."""

_FAULTS: Final = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "ModelNotReadyException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
    }
)

_NOT_TAKEN: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
"""Codes of credentials that are wrong, too old, or may not do it."""

_LIMITS: Final = frozenset({"ResourceLimitExceeded", "ServiceQuotaExceededException"})
"""Quotas of the account: often 0 until somebody raises them, so asking again is of no use."""

_MAX_TEXT_CHARS: Final = 1000

_CREDENTIALS_WAY_OUT: Final = (
    "let the task bring the secrets aws_access_key_id and aws_secret_access_key in custom.secrets, or give the "
    "connector service a role or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)
_REGION_WAY_OUT: Final = "name it in custom.region, in connectors.aws.region or in AWS_DEFAULT_REGION"


@contextmanager
def told(what: str, setup: ConnectorSetup) -> Iterator[None]:
    """Errors of boto3 that leave the block are ours.

    Args:
        what: What was asked for, for messages: ``athena: start_query_execution``.

    Raises:
        TransientError: AWS throttles, has a fault or does not answer.
        PermanentError: credentials are missing, or not taken; code ``ServiceNotAllowed``. A quota is used up.
        BadTaskSpecificationError: AWS will never do what was asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _of_answer(error.response, what, setup) from None
    except (BotoCoreError, ResponseParserError) as error:
        raise _of_library(error, what) from None


def code_of(error: Any) -> str:
    """The code of a ``ClientError``."""
    return str(error.response.get("Error", {}).get("Code", ""))


def message_of(error: Any) -> str:
    """The message of a ``ClientError``, without its code."""
    return str(error.response.get("Error", {}).get("Message", ""))


def _of_answer(response: dict[str, Any], what: str, setup: ConnectorSetup) -> TaskError:
    code = str(response.get("Error", {}).get("Code", ""))
    text = str(response.get("Error", {}).get("Message") or "no message")
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 400))
    if code in _NOT_TAKEN or status in (401, 403):
        # What follows the first line of a refused signature is what was signed, the session token with it.
        first_line = text.strip().partition("\n")[0][:_MAX_TEXT_CHARS]
        return PermanentError(NOT_ALLOWED, f"{what}: AWS does not take the credentials: {code}: {first_line}")
    problem = f"{what}: {code}: {text[:_MAX_TEXT_CHARS]}"
    if code in THROTTLING or code in _FAULTS or status in (408, 429) or status >= 500:
        headers = {str(name).lower(): str(value) for name, value in metadata.get("HTTPHeaders", {}).items()}
        return TransientError("", problem, retry_after_s(HttpResponse(status, headers, b""), setup))
    if code in _LIMITS:
        return PermanentError(code, problem)
    return BadTaskSpecificationError(problem)


def _of_library(error: Exception, what: str) -> TaskError:
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    text = " ".join(str(error).split())[:_MAX_TEXT_CHARS]
    match error:
        case exceptions.CredentialRetrievalError() | exceptions.MetadataRetrievalError():
            return TransientError("", f"{what}: {text}")
        case (
            exceptions.HTTPClientError()
            | exceptions.ConnectionError()
            | exceptions.ResponseStreamingError()
            | ResponseParserError()
        ):
            return TransientError("", f"{what}: {text}")
        case exceptions.FlexibleChecksumError() | exceptions.IncompleteReadError():
            return TransientError("", f"{what}: {text}")
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.ProfileNotFound():
            return PermanentError(NOT_ALLOWED, f"{what}: {text}: {_CREDENTIALS_WAY_OUT}")
        case exceptions.NoRegionError():
            return BadTaskSpecificationError(f"{what}: no region: {_REGION_WAY_OUT}")
        case exceptions.InvalidRegionError():
            return BadTaskSpecificationError(f"{what}: {text} {_REGION_WAY_OUT}")
        case (
            exceptions.ParamValidationError()
            | exceptions.DataNotFoundError()
            | exceptions.UnsupportedSignatureVersionError()
        ):
            return BadTaskSpecificationError(f"{what}: {text}")
        case _:
            return PermanentError("", f"{what}: {type(error).__name__}: {text}")
