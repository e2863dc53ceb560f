"""What a refusal of the API server means."""

from __future__ import annotations

import json
from typing import Any

import pytest

from propfan.engine.cluster import POD, Kind
from propfan.engine.kubernetes.answers import error_of
from propfan.pluginmachinery.errors import (
    AlreadyExistsError,
    ApiError,
    BadRequestError,
    ConflictError,
    ExpiredError,
    ForbiddenError,
    InvalidError,
    KindNotServedError,
    NotFoundError,
    QuotaExceededError,
    ThrottledError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from tests.unit.engine.kubernetes.scripted_server import status

RAY_JOB = Kind("ray.io", "v1", "RayJob", "rayjobs")


def error(code: int, reason: str = "", message: str = "", **details: Any) -> ApiError:
    return error_of(code, json.dumps(status(code, reason, message, **details)).encode(), "Pod n/a", kind=POD)


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (400, "BadRequest", BadRequestError),
        (401, "Unauthorized", UnauthorizedError),
        (403, "Forbidden", ForbiddenError),
        (405, "MethodNotAllowed", BadRequestError),
        (408, "Timeout", UnavailableError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (410, "Gone", ExpiredError),
        (413, "RequestEntityTooLarge", TooLargeError),
        (415, "UnsupportedMediaType", BadRequestError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", ThrottledError),
        (500, "InternalError", UnavailableError),
        (502, "", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
        (504, "Timeout", UnavailableError),
        (302, "", UnavailableError),
    ],
)
def test_the_status_decides_the_class(code: int, reason: str, expected: type[ApiError]) -> None:
    found = error(code, reason, "the message")
    assert type(found) is expected
    assert (found.target, found.problem) == ("Pod n/a", "the message")


def test_a_missing_object_is_not_a_missing_kind() -> None:
    assert type(error(404, "NotFound", 'pods "a" not found', name="a", kind="pods")) is NotFoundError
    assert type(error(404, "NotFound", 'namespaces "n" not found', name="n", kind="namespaces")) is NotFoundError


@pytest.mark.parametrize(
    "body", [b"404 page not found\n", json.dumps(status(404, "NotFound", "the server could not")).encode()]
)
def test_a_missing_kind_says_the_way_out(body: bytes) -> None:
    found = error_of(404, body, "list of rayjobs.ray.io", kind=RAY_JOB)
    assert type(found) is KindNotServedError
    assert found.problem == (
        "the cluster does not serve rayjobs.ray.io/v1: install the operator that defines RayJob, "
        "or disable the plugin whose tasks run as one"
    )


def test_a_used_up_quota_is_no_lack_of_rights() -> None:
    message = 'pods "a" is forbidden: exceeded quota: cpu, requested: cpu=1, used: cpu=4, limited: cpu=4'
    assert type(error(403, "Forbidden", message, name="a", kind="pods")) is QuotaExceededError
    message = 'pods is forbidden: User "u" cannot create resource "pods" in API group "" in the namespace "n"'
    assert type(error(403, "Forbidden", message, kind="pods")) is ForbiddenError


@pytest.mark.parametrize(
    "message",
    [
        "etcdserver: request is too large",
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2097231 vs. 2097152)",
    ],
)
def test_what_etcd_does_not_take_is_too_large(message: str) -> None:
    assert type(error(500, "", message)) is TooLargeError


def test_a_version_that_the_server_will_never_reach_means_to_list_again() -> None:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    assert type(error(504, "Timeout", "Too large resource version: 9, current: 8", causes=causes)) is ExpiredError


def test_causes_that_the_message_leaves_out_are_told() -> None:
    causes = [
        {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.a"},
        {"reason": "FieldValueInvalid", "message": "must be 1", "field": "spec.b"},
    ]
    assert (
        error(422, "Invalid", "spec.a: Required value", causes=causes).problem
        == "spec.a: Required value; spec.b: must be 1"
    )
    assert error(422, "Invalid", "wrong", causes=None).problem == "wrong"


@pytest.mark.parametrize(
    ("header", "seconds", "expected"), [("3", 0, 3.0), ("", 7, 7.0), ("2", 7, 2.0), ("soon", 0, 0.0), ("-1", 0, 0.0)]
)
def test_when_to_come_again_is_in_the_header_or_the_details(header: str, seconds: int, expected: float) -> None:
    body = json.dumps(status(429, "TooManyRequests", "slow down", retryAfterSeconds=seconds)).encode()
    assert error_of(429, body, "x", retry_after=header).retry_after_s == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "HTTP status 502"),
        (b"<html>\n <h1>Bad  gateway</h1>", "HTTP status 502: <html> <h1>Bad gateway</h1>"),
        (b"\xff\xfe" + b"x" * 9000, None),
        (b'{"kind":"Pod"}', 'HTTP status 502: {"kind":"Pod"}'),
        (b'{"kind":"Status","details":7}', 'HTTP status 502: {"kind":"Status","details":7}'),
        (b"[" * 100_000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_status_is_quoted_in_part(body: bytes, problem: str | None) -> None:
    found = error_of(502, body, "x")
    assert type(found) is UnavailableError
    assert len(found.problem) < 400
    if problem is not None:
        assert found.problem == problem
