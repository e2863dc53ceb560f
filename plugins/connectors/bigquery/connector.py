"""Runs queries as jobs of BigQuery, over its REST API, version 2.

A job's id is the attempt's unique name. BigQuery keeps ids unique within a project and location: a second
``jobs.insert`` is answered with 409 ``duplicate``, so there is one job for each attempt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final
from urllib.parse import quote

import msgspec

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connection,
    ConnectorSetup,
    HttpResponse,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.plugins.connectors import bearer
from propfan.plugins.connectors.bigquery import jobs, parameters
from propfan.plugins.connectors.bigquery.credentials import SECRET, Account, Accounts
from propfan.plugins.connectors.bigquery.jobs import Job, JobReference
from propfan.plugins.connectors.http_answers import checked, retry_after_s

_PROJECT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:_-]*")
_LOCATION: Final = re.compile(r"[A-Za-z0-9-]+")
_NOT_OF_THE_QUERY: Final = frozenset({"ProjectID", "Location", "Domain", "secrets", "configs", "taskType", "task_type"})
"""Keys of ``custom`` beside those of ``JobConfigurationQuery``. ``Domain`` is Flyte's and means nothing here."""


class BigQueryConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``connectors.bigquery``.

    Attributes:
        endpoint: Of the API; another one for a private endpoint.
        console: Where log links lead.
        project: Of tasks that name none; else that of the credentials.
        location: Of tasks that name none; else BigQuery decides by the tables.
        token_endpoints: Where keys that tasks bring may be used.
    """

    endpoint: str = "https://bigquery.googleapis.com"
    console: str = "https://console.cloud.google.com"
    project: str = ""
    location: str = ""
    token_endpoints: tuple[str, ...] = (
        "https://oauth2.googleapis.com/token",
        "https://accounts.google.com/o/oauth2/token",
    )


class BigQueryMeta(ResourceMeta, frozen=True):
    """What finds a job again.

    Attributes:
        output: Name of the task's output; empty when it has none.
    """

    project: str
    job: str
    location: str = ""
    output: str = ""


class BigQueryConnector(AsyncConnector[BigQueryMeta]):
    """Tasks whose statement is in ``sql`` and whose ``custom`` is a ``JobConfigurationQuery`` and three keys more."""

    name: ClassVar[str] = "BigQuery Connector"
    categories = (TaskCategory("bigquery_query_job_task"),)
    meta_type = BigQueryMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config: Final = setup.section("bigquery", BigQueryConfig)
        self._accounts: Final = Accounts(self._config.token_endpoints)

    async def create(self, task: TaskRequest) -> BigQueryMeta:
        custom = task.custom(dict[str, Any])
        query, output = _query(task, custom), _output(task)
        location = _name(custom, "Location", _LOCATION) or self._config.location
        named = _name(custom, "ProjectID", _PROJECT) or self._config.project
        account = await self._account(task.connection)
        project = named or account.project
        if not project:
            raise BadTaskSpecificationError(
                "custom.ProjectID is not set, nor does the service's account have a project"
            )
        job = JobReference(project, task.unique_name(), location)
        answer = await self._ask(
            account,
            "POST",
            self._url(project),
            json={
                "jobReference": {
                    "projectId": project,
                    "jobId": job.job_id,
                    **({"location": location} if location else {}),
                },
                "configuration": {"query": query},
            },
        )
        if answer.status == 409 and (told := jobs.error_of(answer)).reason == "duplicate":
            if not location:  # which BigQuery decided by the tables
                where = _where(jobs.location_in(told.message, job))
                answer = await self._ask(account, "GET", self._url(project, job.job_id), params=where)
                job = self._job(answer, f"find job '{project}:{job.job_id}'").job_reference
        else:
            job = self._job(answer, f"submit job '{project}:{job.job_id}'").job_reference
        return BigQueryMeta(project, job.job_id, job.location, output)

    async def get(self, meta: BigQueryMeta, job: JobContext) -> Resource:
        answer = await self._ask(
            await self._account(job.connection),
            "GET",
            self._url(meta.project, meta.job),
            params=_where(meta.location),
        )
        if _is_gone(answer):
            return Resource(RemotePhase.ABORTED, f"job '{meta.project}:{meta.job}' is gone: deleted, or too old")
        found = self._job(answer, f"look at job '{meta.project}:{meta.job}'")
        return jobs.resource_of(found, meta.output, self._config.console)

    async def delete(self, meta: BigQueryMeta, job: JobContext) -> None:
        url = self._url(meta.project, meta.job) + "/cancel"
        answer = await self._ask(await self._account(job.connection), "POST", url, params=_where(meta.location))
        if not _is_gone(answer):
            self._checked(answer, f"cancel job '{meta.project}:{meta.job}'")

    async def _account(self, connection: Connection) -> Account:
        if SECRET in connection.secrets:
            return await self._accounts.of_task(connection.secrets[SECRET])
        try:
            key = await self.get_secret(SECRET)
        except PermanentError:
            key = None
        return await self._accounts.of_service(key)

    async def _ask(
        self,
        account: Account,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        json: Any = None,
    ) -> HttpResponse:
        return await bearer.asked(self.setup.http, account.token, method, url, params=params, json=json)

    def _url(self, project: str, job: str = "") -> str:
        path = f"/bigquery/v2/projects/{quote(project, safe=':')}/jobs"
        return self._config.endpoint.rstrip("/") + path + (f"/{quote(job, safe='')}" if job else "")

    def _job(self, answer: HttpResponse, what: str) -> Job:
        return self._checked(answer, what).json(Job)

    def _checked(self, answer: HttpResponse, what: str) -> HttpResponse:
        """Quotas and rate limits have status 403, as what is forbidden: their reason tells them apart."""
        error = jobs.ErrorProto() if answer.is_success else jobs.error_of(answer)
        if error.reason in jobs.PASSING_REASONS:
            told = f"bigquery: {what}: status {answer.status}: {error}"
            raise TransientError("", told, retry_after_s(answer, self.setup))
        return checked(answer, f"bigquery: {what}", self.setup, str(error))


def _is_gone(answer: HttpResponse) -> bool:
    """A 404 of anybody else, a proxy, says nothing about the job."""
    return answer.status == 404 and jobs.error_of(answer).reason == "notFound"


def _query(task: TaskRequest, custom: Mapping[str, Any]) -> Mapping[str, Any]:
    """``JobConfigurationQuery`` of the task."""
    statement = task.template.sql.statement
    if not statement.strip():
        raise BadTaskSpecificationError(f"task '{task.template.id.name}': sql.statement is empty")
    inputs = task.inputs()
    declared = {entry.key: entry.value.type for entry in task.template.interface.inputs.variables}
    # Standard SQL unless the task says otherwise, as Google's client libraries have it; the API's own default is not.
    query: dict[str, Any] = {"useLegacySql": False}
    query |= {key: value for key, value in custom.items() if value is not None and key not in _NOT_OF_THE_QUERY}
    query["query"] = parameters.with_parameters(statement, inputs)
    if inputs:
        query |= _parameters(query, parameters.query_parameters(inputs, declared))
    return query


def _parameters(query: Mapping[str, Any], inputs: Any) -> Mapping[str, Any]:
    """Inputs beside the parameters that the task's configuration has; of one name, the input."""
    own = query.get("queryParameters", [])
    if query.get("parameterMode", "NAMED") != "NAMED":
        problem = "must be NAMED for a task with inputs, which become named parameters"
        raise BadTaskSpecificationError(f"custom.parameterMode {problem}")
    if not isinstance(own, list) or not all(isinstance(each, dict) for each in own):
        raise BadTaskSpecificationError("custom.queryParameters must be a list of objects")
    names = {each["name"] for each in inputs}
    return {
        "parameterMode": "NAMED",
        "queryParameters": [*(each for each in own if each.get("name") not in names), *inputs],
    }


def _output(task: TaskRequest) -> str:
    """Name of the only output that a query can have; empty for none."""
    outputs = [entry.key for entry in task.template.interface.outputs.variables]
    if len(outputs) > 1:
        problem = f"declares the outputs {', '.join(outputs)}; a query has one, its table of results"
        raise BadTaskSpecificationError(f"task '{task.template.id.name}' {problem}")
    return outputs[0] if outputs else ""


def _name(custom: Mapping[str, Any], key: str, form: re.Pattern[str]) -> str:
    value = custom.get(key)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise BadTaskSpecificationError(f"custom.{key} must match {form.pattern}, is {value!r:.200}")
    return value


def _where(location: str) -> Mapping[str, str]:
    """BigQuery finds jobs outside of the US and the EU by their location only."""
    return {"location": location} if location else {}
