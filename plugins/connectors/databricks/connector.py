"""Runs functions and notebooks as one-time runs of Databricks, over its Jobs API, version 2.1.

The attempt's unique name is the run's ``idempotency_token``: Databricks launches one run for each token and
answers a second submission with the run that it has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import msgspec
import structlog

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    Connection,
    ConnectorSetup,
    HttpClient,
    HttpResponse,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.contexts import ExecutionErrorDocument, IOPaths
from propfan.pluginmachinery.errors import BadTaskSpecificationError, ConfigError, PropfanError
from propfan.pluginmachinery.readers import RemoteOutputReader
from propfan.plugins.connectors.databricks import runs
from propfan.plugins.connectors.databricks.runs import Run, RunOutput
from propfan.plugins.connectors.databricks.submission import (
    FLYTE1,
    FLYTE2,
    DatabricksSpec,
    Entrypoint,
    submission,
)
from propfan.plugins.connectors.hosts import HostConfig
from propfan.plugins.connectors.http_answers import checked

logger = structlog.get_logger(__name__)

TASK_SECRET: Final = "databricks_token"  # noqa: S105 - its name
"""Logical name of the token that a task brings."""

SERVICE_SECRET: Final = "FLYTE_DATABRICKS_ACCESS_TOKEN"  # noqa: S105 - its name
"""The service's own token, of tasks that bring none."""

INSTANCE_VARIABLE: Final = "FLYTE_DATABRICKS_INSTANCE"
"""Instance of tasks that name none, where the configuration does not either; as of Flyte's own connector."""

_API: Final = "/api/2.1/jobs/runs"
_INSTANCE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_MAX_TRACE_CHARS: Final = 4000


class DatabricksConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``connectors.databricks``.

    Attributes:
        instance: Workspace of tasks that name none, e.g. ``dbc-1.cloud.databricks.com``.
        instances: Others to which the service's own tokens may be sent. A token that a task brings may go anywhere.
        token_secrets: Groups of the service's secrets whose ``token`` tasks may ask for by ``databricksTokenSecret``.
        endpoint: Asked in place of ``https://<instance>``: of a gateway.
        hosts: Which instances may be asked with tokens of tasks.
        flyte1: What runs functions of Flyte 1.
        flyte2: What runs functions of Flyte 2.
    """

    instance: str = ""
    instances: tuple[str, ...] = ()
    token_secrets: tuple[str, ...] = ("databricks-token",)
    endpoint: str = ""
    hosts: HostConfig = HostConfig()
    flyte1: Entrypoint = FLYTE1
    flyte2: Entrypoint = FLYTE2


class DatabricksMeta(ResourceMeta, frozen=True):
    """What finds a run again.

    Attributes:
        token_secret: Name of the service's secret with the token, where the task says so.
        output_prefix: Of a function, which leaves its outputs or its error there; else empty.
    """

    instance: str
    run_id: int
    token_secret: str = ""
    output_prefix: str = ""


class _Submitted(msgspec.Struct, frozen=True):
    run_id: int


class DatabricksConnector(AsyncConnector[DatabricksMeta]):
    """Functions write their outputs themselves; notebooks have none."""

    name: ClassVar[str] = "Databricks Connector"
    categories = (TaskCategory("databricks"),)
    meta_type = DatabricksMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._config: Final = setup.section("databricks", DatabricksConfig)
        self._default: Final = self._config.instance or setup.environment.get(INSTANCE_VARIABLE, "")
        try:
            self._own: Final = frozenset(map(_host, filter(None, (self._default, *self._config.instances))))
        except BadTaskSpecificationError as error:
            raise ConfigError("connectors.databricks.instance", error.message) from None
        self._foreign_http: Final = setup.http.restricted(self._config.hosts.rule("connectors.databricks.hosts"))

    async def create(self, task: TaskRequest) -> DatabricksMeta:
        spec = task.custom(DatabricksSpec)
        if spec.databricks_auth_type not in (None, "", "pat"):
            problem = f"is {spec.databricks_auth_type!r:.100}; only 'pat', a personal access token, is known here"
            raise BadTaskSpecificationError(f"custom.databricksAuthType {problem}")
        instance = _host(spec.databricks_instance or self._default)
        made = submission(task, spec, self._config.flyte1, self._config.flyte2)
        secret = spec.databricks_token_secret or ""
        ask = await self._asking(instance, secret, task.connection)
        answer = await ask("POST", "/submit", json=made.body)
        run_id = self._checked(answer, f"submit a run to {instance}").json(_Submitted).run_id
        return DatabricksMeta(instance, run_id, secret, task.output_prefix if made.is_function else "")

    async def get(self, meta: DatabricksMeta, job: JobContext) -> Resource:
        ask = await self._asking(meta.instance, meta.token_secret, job.connection)
        answer = await ask("GET", "/get", params={"run_id": str(meta.run_id)})
        if _is_gone(answer):
            return Resource(RemotePhase.ABORTED, f"run {meta.run_id} of {meta.instance} is gone: deleted, or too old")
        run = self._checked(answer, f"look at run {meta.run_id} of {meta.instance}").json(Run)
        resource = runs.resource_of(run)
        if resource.phase in (RemotePhase.SUCCEEDED, RemotePhase.FAILED) and meta.output_prefix:
            resource = await self._with_error_document(resource, meta.output_prefix)
        if resource.phase in (RemotePhase.FAILED, RemotePhase.RETRYABLE_FAILED):
            resource = await self._with_output(resource, run, ask)
        return resource

    async def delete(self, meta: DatabricksMeta, job: JobContext) -> None:
        ask = await self._asking(meta.instance, meta.token_secret, job.connection)
        answer = await ask("POST", "/cancel", json={"run_id": meta.run_id})
        if not _is_gone(answer) and runs.refusal_of(answer)[0] != "INVALID_STATE":  # it is over
            self._checked(answer, f"cancel run {meta.run_id} of {meta.instance}")

    async def _asking(self, instance: str, token_secret: str, connection: Connection) -> _Asking:
        """Calls of one workspace, with the token that may be sent there.

        Raises:
            BadTaskSpecificationError: the service's own token may not.
            PermanentError: there is no token; named.
        """
        instance = _host(instance)
        base = (self._config.endpoint or f"https://{instance}").rstrip("/") + _API
        if TASK_SECRET in connection.secrets:
            http = self.setup.http if self._config.endpoint or instance in self._own else self._foreign_http
            return _Asking(http, base, connection.secrets[TASK_SECRET])
        if instance not in self._own:
            way_out = f"bring a token as custom.secrets.{TASK_SECRET}, or add it to connectors.databricks.instances"
            raise BadTaskSpecificationError(
                f"custom.databricksInstance '{instance}' is not the service's own: {way_out}"
            )
        if token_secret and token_secret not in self._config.token_secrets:
            way_out = "add it to connectors.databricks.token-secrets"
            raise BadTaskSpecificationError(f"custom.databricksTokenSecret '{token_secret}' is not allowed: {way_out}")
        token = await (
            self.get_secret("token", group=token_secret) if token_secret else self.get_secret(SERVICE_SECRET)
        )
        return _Asking(self.setup.http, base, token)

    async def _with_error_document(self, resource: Resource, output_prefix: str) -> Resource:
        """What the function says of its failure.

        A run on a cluster that was there before can not be told to fail with its function: it succeeds, and the
        function's error lies where its outputs would.
        """
        reader = RemoteOutputReader(self.setup.store, _paths(output_prefix))
        try:
            document = await reader.read_error()
            if document is None or (resource.phase is RemotePhase.SUCCEEDED and await reader.exists()):
                return resource
        except PropfanError as error:
            logger.warning("the function's error can not be read", folder=output_prefix, error=str(error))
            return resource
        return _failed(resource, document)

    async def _with_output(self, resource: Resource, run: Run, ask: _Asking) -> Resource:
        """With the error that the run shows, where the API has one; only tasks of a run do."""
        if not run.tasks:
            return resource
        try:
            answer = await ask("GET", "/get-output", params={"run_id": str(run.tasks[0].run_id)})
            output = answer.json(RunOutput) if answer.is_success else RunOutput()
        except PropfanError:  # how the run ended is known without
            return resource
        told = [resource.message, output.error or "", (output.error_trace or "")[-_MAX_TRACE_CHARS:]]
        return msgspec.structs.replace(resource, message="\n".join(filter(None, told)))

    def _checked(self, answer: HttpResponse, what: str) -> HttpResponse:
        problem = "" if answer.is_success else ": ".join(filter(None, runs.refusal_of(answer)))
        return checked(answer, f"databricks: {what}", self.setup, problem)


class _Asking:
    """Calls of one workspace's runs with one token."""

    def __init__(self, http: HttpClient, base: str, token: str) -> None:
        self._http: Final = http
        self._base: Final = base
        self._headers: Final = {"Authorization": f"Bearer {token}"}

    async def __call__(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> HttpResponse:
        return await self._http.request(method, self._base + path, params=params, headers=self._headers, json=json)


def _host(instance: str) -> str:
    """The host of a workspace, as URLs have it; with its port if that is given."""
    host = instance.strip().removeprefix("https://").rstrip("/").lower()
    if not host:
        way_out = "set it, or connectors.databricks.instance"
        raise BadTaskSpecificationError(f"custom.databricksInstance names no workspace: {way_out}")
    if not _INSTANCE.fullmatch(host):
        raise BadTaskSpecificationError(f"custom.databricksInstance must be a host's name, is {instance!r:.200}")
    return host


def _is_gone(answer: HttpResponse) -> bool:
    return not answer.is_success and (answer.status == 404 or runs.refusal_of(answer)[0] in runs.NO_SUCH_RUN)


def _paths(output_prefix: str) -> IOPaths:
    prefix = output_prefix.rstrip("/")
    return IOPaths(
        input_prefix="",
        output_prefix=prefix,
        raw_output_prefix="",
        input="",
        output=f"{prefix}/outputs.pb",
        error=f"{prefix}/error.pb",
        deck="",
        checkpoint_prefix="",
    )


def _failed(resource: Resource, document: ExecutionErrorDocument) -> Resource:
    phase = RemotePhase.RETRYABLE_FAILED if document.is_recoverable else RemotePhase.FAILED
    code = f"[{document.error.code}] " if document.error.code else ""
    return msgspec.structs.replace(resource, phase=phase, message=f"{resource.message}\n{code}{document.error.message}")
