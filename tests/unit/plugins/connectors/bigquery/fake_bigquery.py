"""A BigQuery that runs on this machine.

Follows Google's published contracts: the REST API of BigQuery, version 2 (``jobs.insert``, ``jobs.get``,
``jobs.cancel``, their resources and error reasons), and OAuth 2.0 for service accounts (RFC 7523). It refuses
what they do not allow: unknown fields, values of other types, tokens that it did not issue. Statements are
run by SQLite, which knows named parameters as well, so that what a parameter does can be seen.
"""

from __future__ import annotations

import itertools
import json
import re
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt

from tests.unit.plugins.connectors import loopback

SCOPES: Final = {"https://www.googleapis.com/auth/bigquery", "https://www.googleapis.com/auth/cloud-platform"}
"""``jobs.insert`` asks for one of them."""
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCE: Final = "https://oauth2.googleapis.com/token"
"""Of every assertion, wherever it is sent."""
JOB_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,1024}")

BOOLEANS: Final = {"allowLargeResults", "createSession", "flattenResults", "useLegacySql", "useQueryCache"}
TEXTS: Final = {"createDisposition", "parameterMode", "priority", "query", "writeDisposition"}
INTEGERS: Final = {"maximumBillingTier", "maximumBytesBilled"}
LISTS: Final = {"connectionProperties", "queryParameters", "schemaUpdateOptions", "userDefinedFunctionResources"}
OBJECTS: Final = {
    *("clustering", "defaultDataset", "destinationEncryptionConfiguration", "destinationTable", "rangePartitioning"),
    *("scriptOptions", "tableDefinitions", "timePartitioning"),
}
"""Members of ``JobConfigurationQuery``."""

PARAMETER_TYPES: Final = {
    *("INT64", "FLOAT64", "NUMERIC", "BIGNUMERIC", "BOOL", "STRING", "BYTES"),
    *("DATE", "DATETIME", "TIME", "TIMESTAMP", "INTERVAL", "JSON", "ARRAY", "STRUCT"),
}


class RefusalError(loopback.Refusal):
    """An error of the API."""

    def __init__(self, status: int, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})

    def answer(self) -> web.Response:
        item = {"message": str(self), "domain": "global", "reason": self.reason}
        body = {"error": {"code": self.status, "message": str(self), "errors": [item]}}
        return web.json_response(body, status=self.status, headers=self.headers)


class FakeBigQuery:
    """Its jobs are PENDING, then RUNNING, then DONE: one step for each look.

    Attributes:
        jobs: Resources, by project, location and id.
        tables: Rows of results, by URI.
        refusals: Answers to the next calls of the API, in place of what they ask for; ``None`` lets one pass.
        job_errors: By a part of the statement, the error with which such a job ends.
        tokens: Issued, and not revoked.
    """

    def __init__(self, projects: Mapping[str, str]) -> None:
        self.projects: Final = dict(projects)
        self.jobs: Final[dict[tuple[str, str, str], dict[str, Any]]] = {}
        self.tables: Final[dict[str, list[tuple[Any, ...]]]] = {}
        self.refusals: Final[deque[RefusalError | None]] = deque()
        self.job_errors: Final[dict[str, dict[str, str]]] = {}
        self.tokens: Final[set[str]] = set()
        self.grants: Final[list[str]] = []
        self.token_refusals: Final[deque[web.Response]] = deque()
        self.url = ""
        self._keys: Final[dict[str, bytes]] = {}
        self._numbers: Final = itertools.count(1)
        self._database: Final = sqlite3.connect(":memory:")
        self._database.execute("ATTACH ':memory:' AS zoo")
        self._database.execute("CREATE TABLE zoo.pets (name TEXT, age INTEGER)")
        self._database.executemany("INSERT INTO pets VALUES (?, ?)", [("rex", 3), ("o'malley", 9), ("tom", 5)])

    def key(self, account: str = "runner", project: str = "acme", **changes: Any) -> str:
        """Makes an account with a key, as the console downloads one."""
        email = f"{account}@{project}.iam.gserviceaccount.com"
        private, public = _pair_of(email)
        self._keys[email] = public
        made = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "k1",
            "private_key": private.decode(),
            "client_email": email,
            "client_id": "1",
            "token_uri": f"{self.url}/token",
        }
        return json.dumps({**made, **changes})

    def application(self) -> web.Application:
        made = web.Application(middlewares=[loopback.refusing])
        made.router.add_post("/token", self._token)
        made.router.add_post("/bigquery/v2/projects/{project}/jobs", self._insert)
        made.router.add_get("/bigquery/v2/projects/{project}/jobs/{job}", self._get)
        made.router.add_post("/bigquery/v2/projects/{project}/jobs/{job}/cancel", self._cancel)
        return made

    async def _token(self, request: web.Request) -> web.Response:
        if self.token_refusals:
            return self.token_refusals.popleft()
        form = await request.post()
        try:
            assert form["grant_type"] == GRANT
            assertion = str(form["assertion"])
            issuer = jwt.decode(assertion, verify=False)["iss"]  # type: ignore[no-untyped-call]
            key = {"k1": self._keys[issuer]}
            claims = jwt.decode(assertion, certs=key, audience=AUDIENCE)  # type: ignore[no-untyped-call]
            assert SCOPES & set(claims["scope"].split())
        except (AssertionError, KeyError, ValueError):
            told = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            return web.json_response(told, status=400)
        token = f"ya29.{next(self._numbers)}"
        self.tokens.add(token)
        self.grants.append(issuer)
        return web.json_response({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})

    async def _insert(self, request: web.Request) -> web.Response:
        project = self._entered(request)
        try:
            body = msgspec.json.decode(await request.read(), type=dict[str, Any])
        except msgspec.DecodeError:
            raise RefusalError(400, "parseError", "Parse Error") from None
        _known(body, {"jobReference", "configuration"}, "")
        reference, configuration = body.get("jobReference", {}), body.get("configuration", {})
        _known(reference, {"projectId", "jobId", "location"}, "job_reference.")
        _known(configuration, {"query", "labels", "dryRun", "jobTimeoutMs"}, "configuration.")
        if reference.get("projectId", project) != project:
            raise RefusalError(400, "invalid", "ProjectId in the reference differs from that of the request")
        job_id = reference.get("jobId", f"job_{next(self._numbers)}")
        if not JOB_ID.fullmatch(job_id):
            raise RefusalError(400, "invalid", f"Invalid job ID: {job_id}")
        query = _checked_query(configuration.get("query"))
        location = reference.get("location", self.projects[project])
        if (project, location, job_id) in self.jobs:
            raise RefusalError(409, "duplicate", f"Already Exists: Job {project}:{location}.{job_id}")
        job = {
            "kind": "bigquery#job",
            "id": f"{project}:{location}.{job_id}",
            "jobReference": {"projectId": project, "jobId": job_id, "location": location},
            "configuration": {"jobType": "QUERY", "query": query},
            "status": {"state": "PENDING"},
            "statistics": {"creationTime": "1767225600000"},
            "user_email": "runner@acme.iam.gserviceaccount.com",
        }
        self.jobs[project, location, job_id] = job
        return web.json_response(job)

    async def _get(self, request: web.Request) -> web.Response:
        job = self._job(request)
        told = json.dumps(job)
        if job["status"]["state"] == "PENDING":
            job["status"]["state"] = "RUNNING"
        elif job["status"]["state"] == "RUNNING":
            self._run(job)
        return web.Response(text=told, content_type="application/json")

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job["status"]["state"] != "DONE":
            error = {"reason": "stopped", "message": "Job execution was cancelled: User requested cancellation"}
            job["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
        return web.json_response({"kind": "bigquery#jobCancelResponse", "job": job})

    def _entered(self, request: web.Request) -> str:
        """The project, of a request that may be answered."""
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            raise RefusalError(401, "authError", "Request had invalid authentication credentials.")
        if self.refusals and (refusal := self.refusals.popleft()):
            raise refusal
        project = request.match_info["project"]
        if project not in self.projects:
            message = f"Access Denied: Project {project}: User does not have bigquery.jobs.create permission"
            raise RefusalError(403, "accessDenied", message)
        return project

    def _job(self, request: web.Request) -> dict[str, Any]:
        project, job_id = self._entered(request), request.match_info["job"]
        # Without a location only the multi-regions are searched.
        places = [request.query["location"]] if "location" in request.query else ["US", "EU"]
        for place in places:
            if job := self.jobs.get((project, place, job_id)):
                return job
        raise RefusalError(404, "notFound", f"Not found: Job {project}:{job_id}")

    def _run(self, job: dict[str, Any]) -> None:
        query = job["configuration"]["query"]
        for part, error in self.job_errors.items():
            if part in query["query"]:
                job["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
                return
        bound = {each["name"]: _bound(each) for each in query.get("queryParameters", [])}
        try:
            cursor = self._database.execute(query["query"], bound)
        except sqlite3.Error as problem:
            error = {"reason": "invalidQuery", "location": "query", "message": str(problem)}
            job["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
            return
        is_select = cursor.description is not None
        statistics = {"totalBytesProcessed": "4096", "totalBytesBilled": "10485760", "totalSlotMs": "17"}
        statistics["statementType"] = "SELECT" if is_select else "INSERT"
        job["statistics"]["query"] = {**statistics, "cacheHit": False}
        if is_select:
            table = {"projectId": job["jobReference"]["projectId"], "datasetId": "_anon", "tableId": "t1"}
            table["tableId"] = f"anon{next(self._numbers)}"
            table = query.setdefault("destinationTable", table)
            self.tables["bq://{projectId}:{datasetId}.{tableId}".format(**table)] = cursor.fetchall()
        job["status"] = {"state": "DONE"}


@asynccontextmanager
async def opened(projects: Mapping[str, str] | None = None) -> AsyncIterator[FakeBigQuery]:
    """Serves it on loopback; projects are given with the location where their tables are."""
    fake = FakeBigQuery(projects or {"acme": "US"})
    async with loopback.served(fake.application()) as fake.url:
        yield fake


def _known(members: Any, names: set[str], path: str) -> None:
    if not isinstance(members, dict):
        raise RefusalError(400, "invalid", f"Invalid value at '{path.rstrip('.')}'")
    for name in members:
        if name not in names:
            message = f"Invalid JSON payload received. Unknown name \"{name}\" at 'job.{path.rstrip('.')}': Cannot find field."
            raise RefusalError(400, "badRequest", message)


def _checked_query(query: Any) -> dict[str, Any]:
    if query is None:
        raise RefusalError(400, "required", "Required parameter is missing")
    _known(query, BOOLEANS | TEXTS | INTEGERS | LISTS | OBJECTS, "configuration.query.")
    for name, value in query.items():
        fits = (
            (name in BOOLEANS and isinstance(value, bool))
            or (name in TEXTS and isinstance(value, str))
            or (name in LISTS and isinstance(value, list))
            or (name in OBJECTS and isinstance(value, dict))
            or (name in INTEGERS and (type(value) is int or (isinstance(value, str) and value.isdigit())))
        )
        if not fits:
            raise RefusalError(400, "invalid", f"Invalid value at 'job.configuration.query.{name}'")
    if not query.get("query"):
        raise RefusalError(400, "required", "Required parameter is missing: query")
    if query.get("parameterMode", "NAMED") not in ("NAMED", "POSITIONAL"):
        raise RefusalError(400, "invalid", "Invalid value for parameterMode")
    for parameter in query.get("queryParameters", []):
        _known(parameter, {"name", "parameterType", "parameterValue"}, "configuration.query.query_parameters.")
        _check_type(parameter.get("parameterType"))
        _known(parameter.get("parameterValue"), {"value", "arrayValues", "structValues"}, "parameter_value.")
        if not isinstance(parameter["parameterValue"].get("value", ""), str):
            raise RefusalError(400, "invalid", "Invalid value at 'parameter_value.value' (TYPE_STRING)")
    return dict(query)


def _check_type(kind: Any) -> None:
    _known(kind, {"type", "arrayType", "structTypes"}, "parameter_type.")
    if kind.get("type") not in PARAMETER_TYPES:
        raise RefusalError(400, "invalid", f"Invalid value for type: {kind.get('type')} is not a valid value")
    if kind["type"] == "ARRAY":
        if kind.get("arrayType", {}).get("type") == "ARRAY":
            raise RefusalError(400, "invalid", "Array of array is not supported")
        _check_type(kind.get("arrayType"))


def _bound(parameter: Mapping[str, Any]) -> Any:
    kind, value = parameter["parameterType"]["type"], parameter["parameterValue"]
    if kind == "ARRAY":
        return json.dumps([each.get("value") for each in value.get("arrayValues", [])])
    if "value" not in value:
        return None
    match kind:
        case "INT64":
            return int(value["value"])
        case "FLOAT64":
            return float(value["value"])
        case "BOOL":
            return {"true": True, "false": False}[value["value"]]
        case _:
            return value["value"]


_KEYS: Final[dict[str, tuple[bytes, bytes]]] = {}
"""Pairs that were made already; they take a while."""


def _key_pair() -> tuple[bytes, bytes]:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = serialization.Encoding.PEM
    written = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return written, private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)


def _pair_of(email: str) -> tuple[bytes, bytes]:
    if email not in _KEYS:
        _KEYS[email] = _key_pair()
    return _KEYS[email]
