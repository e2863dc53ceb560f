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
from propfan.plugins.connectors import bearer
from propfan.plugins.connectors.bearer import TokenOf
from propfan.plugins.connectors.databricks import runs
from propfan.plugins.connectors.databricks.runs import Run, RunOutput
from propfan.plugins.connectors.databricks.submission import (
    FLYTE1,
    FLYTE2,
    DatabricksSpec,
    Entrypoint,
    submission,
)
from propfan.plugins.connectors.databricks.tokens import (
    PERSONAL,
    SERVICE_PRINCIPAL,
    ServicePrincipals,
    personal,
)
from propfan.plugins.connectors.hosts import HostConfig
from propfan.plugins.connectors.http_answers import checked

logger = structlog.get_logger(__name__)

TASK_SECRET: Final = "databricks_token"  # noqa: S105 - its name
"""Logical name of the token that a task brings."""

TASK_CLIENT_SECRET: Final = "databricks_client_secret"  # noqa: S105 - its name
"""The same of a service principal's secret."""

SERVICE_SECRET: Final = "FLYTE_DATABRICKS_ACCESS_TOKEN"  # noqa: S105 - its name
"""The service's own token, of tasks that bring none."""

SERVICE_CLIENT_ID: Final = "DATABRICKS_CLIENT_ID"
SERVICE_CLIENT_SECRET: Final = "DATABRICKS_CLIENT_SECRET"  # noqa: S105 - its name
"""The service's own service principal."""

INSTANCE_VARIABLE: Final = "FLYTE_DATABRICKS_INSTANCE"
"""Instance of tasks that name none, where the configuration does not either; as of Flyte's own connector."""

_API: Final = "/api/2.1/jobs/runs"
_INSTANCE: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:\d{1,5})?")
_MAX_TEXT_CHARS: Final = 4000


class DatabricksConfig(msgspec.Struct, frozen=True, rename="kebab"):
    """Section ``connectors.databricks``.

    Attributes:
        instance: Workspace of tasks that name none, e.g. ``dbc-1.cloud.databricks.com``.
        instances: Others to which the service's own tokens may be sent. A token that a task brings may go anywhere.
        token_secrets: Groups of the service's secrets that tasks may name: by ``databricksTokenSecret`` for its
            ``token``, by ``databricksOauthSecret`` for its ``client_id`` and ``client_secret``.
        endpoint: Asked in place of ``https://<instance>``: of a gateway.
        hosts: Which instances may be asked with tokens of tasks.
        flyte1: What runs functions of Flyte 1.
        flyte2: What runs functions of Flyte 2.
    """

    instance: str = ""
    instances: tuple[str, ...] = ()
    token_secrets: tuple[str, ...] = ("databricks-token", "databricks-oauth")
    endpoint: str = ""
    hosts: HostConfig = HostConfig()
    flyte1: Entrypoint = FLYTE1
    flyte2: Entrypoint = FLYTE2


class DatabricksMeta(ResourceMeta, frozen=True):
    """What finds a run again.

    Attributes:
        token_secret: Group of the service's secrets with the token, where the task says so.
        client_id: Of the service principal that asks; empty where it is a personal access token.
        output_prefix: Of a function, which leaves its outputs or its error there; else empty.
    """

    instance: str
    run_id: int
    token_secret: str = ""
    client_id: str = ""
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
        self._principals: Final = ServicePrincipals(setup)
        self._foreign_http: Final = setup.http.restricted(self._config.hosts.rule("connectors.databricks.hosts"))

    async def create(self, task: TaskRequest) -> DatabricksMeta:
        spec = task.custom(DatabricksSpec)
        made = submission(task, spec, self._config.flyte1, self._config.flyte2)
        meta = DatabricksMeta(
            instance=_host(spec.databricks_instance or self._default),
            run_id=0,
            token_secret=self._token_secret(spec),
            client_id=await self._client_id(spec),
            output_prefix=task.output_prefix if made.is_function else "",
        )
        ask = await self._asking(meta, task.connection)
        answer = await ask("POST", "/submit", json=made.body)
        run_id = self._checked(answer, f"submit a run to {meta.instance}").json(_Submitted).run_id
        return msgspec.structs.replace(meta, run_id=run_id)

    async def get(self, meta: DatabricksMeta, job: JobContext) -> Resource:
        ask = await self._asking(meta, job.connection)
        answer = await ask("GET", "/get", params={"run_id": str(meta.run_id)})
        if _is_gone(answer):
            return Resource(RemotePhase.ABORTED, f"run {meta.run_id} of {meta.instance} is gone: deleted, or too old")
        run = self._checked(answer, f"look at run {meta.run_id} of {meta.instance}").json(Run)
        resource = runs.resource_of(run)
        if resource.phase in (RemotePhase.SUCCEEDED, RemotePhase.FAILED) and meta.output_prefix:
            resource = await self._with_error_document(resource, meta.output_prefix)
        is_failed = resource.phase in (RemotePhase.FAILED, RemotePhase.RETRYABLE_FAILED)
        is_notebook = resource.phase is RemotePhase.SUCCEEDED and not meta.output_prefix
        if run.tasks and (is_failed or is_notebook):
            return _with_output(resource, await self._output(ask, run.tasks[0].run_id))
        return resource

    async def delete(self, meta: DatabricksMeta, job: JobContext) -> None:
        ask = await self._asking(meta, job.connection)
        answer = await ask("POST", "/cancel", json={"run_id": meta.run_id})
        if not _is_gone(answer) and runs.refusal_of(answer)[0] != "INVALID_STATE":  # it is over
            self._checked(answer, f"cancel run {meta.run_id} of {meta.instance}")

    def _token_secret(self, spec: DatabricksSpec) -> str:
        is_principal = spec.databricks_auth_type == SERVICE_PRINCIPAL
        field = "databricksOauthSecret" if is_principal else "databricksTokenSecret"
        name = (spec.databricks_oauth_secret if is_principal else spec.databricks_token_secret) or ""
        if name and name not in self._config.token_secrets:
            way_out = "add it to connectors.databricks.token-secrets"
            raise BadTaskSpecificationError(f"custom.{field} '{name}' is not allowed: {way_out}")
        return name

    async def _client_id(self, spec: DatabricksSpec) -> str:
        """Of the service principal that asks; empty for a personal access token."""
        kind = spec.databricks_auth_type or PERSONAL
        if kind == PERSONAL:
            return ""
        if kind != SERVICE_PRINCIPAL:
            known = f"known here are '{PERSONAL}' and '{SERVICE_PRINCIPAL}'"
            raise BadTaskSpecificationError(f"custom.databricksAuthType is {kind!r:.100}; {known}")
        if spec.databricks_client_id:
            return spec.databricks_client_id
        if group := spec.databricks_oauth_secret:
            return await self.get_secret("client_id", group=group)
        return await self.get_secret(SERVICE_CLIENT_ID)

    async def _asking(self, meta: DatabricksMeta, connection: Connection) -> _Asking:
        """Calls of one workspace, with what may be sent there.

        Raises:
            BadTaskSpecificationError: the service's own secrets may not.
            PermanentError: there is no secret; named.
        """
        instance = _host(meta.instance)
        workspace = (self._config.endpoint or f"https://{instance}").rstrip("/")
        logical = TASK_CLIENT_SECRET if meta.client_id else TASK_SECRET
        if logical in connection.secrets:
            secret = connection.secrets[logical]
            http = self.setup.http if self._config.endpoint or instance in self._own else self._foreign_http
        else:
            secret = await self._own_secret(meta, instance)
            http = self.setup.http
        if meta.client_id:
            return _Asking(http, workspace, self._principals.tokens_of(http, workspace, meta.client_id, secret))
        return _Asking(http, workspace, personal(secret))

    async def _own_secret(self, meta: DatabricksMeta, instance: str) -> str:
        """Checked again at every call: metas come back from outside."""
        logical = TASK_CLIENT_SECRET if meta.client_id else TASK_SECRET
        if instance not in self._own:
            way_out = f"bring a secret of the task's own as custom.secrets.{logical}"
            problem = f"is not the service's own: {way_out}, or add it to connectors.databricks.instances"
            raise BadTaskSpecificationError(f"custom.databricksInstance '{instance}' {problem}")
        if meta.token_secret:
            if meta.token_secret not in self._config.token_secrets:
                problem = "is not among connectors.databricks.token-secrets"
                raise BadTaskSpecificationError(f"the run's secret '{meta.token_secret}' {problem}")
            return await self.get_secret("client_secret" if meta.client_id else "token", group=meta.token_secret)
        return await self.get_secret(SERVICE_CLIENT_SECRET if meta.client_id else SERVICE_SECRET)

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

    async def _output(self, ask: _Asking, run_id: int) -> RunOutput:
        """What the only task of a run left behind; nothing where it can not be had: how it ended is known without."""
        try:
            answer = await ask("GET", "/get-output", params={"run_id": str(run_id)})
            return answer.json(RunOutput) if answer.is_success else RunOutput()
        except PropfanError:
            return RunOutput()

    def _checked(self, answer: HttpResponse, what: str) -> HttpResponse:
        problem = "" if answer.is_success else ": ".join(filter(None, runs.refusal_of(answer)))
        return checked(answer, f"databricks: {what}", self.setup, problem)


class _Asking:
    """Calls of one workspace's runs."""

    def __init__(self, http: HttpClient, workspace: str, token_of: TokenOf) -> None:
        self._http: Final = http
        self._base: Final = workspace + _API
        self._token_of: Final = token_of

    async def __call__(
        self, method: str, path: str, *, params: Mapping[str, str] | None = None, json: Any = None
    ) -> HttpResponse:
        return await bearer.asked(self._http, self._token_of, method, self._base + path, params=params, json=json)


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
    return not answer.is_success and runs.refusal_of(answer)[0] in runs.NO_SUCH_RUN


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


def _with_output(resource: Resource, output: RunOutput) -> Resource:
    """With the error that a run shows, or what a notebook returned."""
    if resource.phase is not RemotePhase.SUCCEEDED:
        told = [resource.message, output.error or "", (output.error_trace or "")[-_MAX_TEXT_CHARS:]]
        return msgspec.structs.replace(resource, message="\n".join(filter(None, told)))
    result = output.notebook_output.result if output.notebook_output is not None else None
    if result is None:
        return resource
    info = {**(resource.custom_info or {}), "notebook_result": result[:_MAX_TEXT_CHARS]}
    return msgspec.structs.replace(resource, custom_info=info)


def _failed(resource: Resource, document: ExecutionErrorDocument) -> Resource:
    phase = RemotePhase.RETRYABLE_FAILED if document.is_recoverable else RemotePhase.FAILED
    code = f"[{document.error.code}] " if document.error.code else ""
    return msgspec.structs.replace(resource, phase=phase, message=f"{resource.message}\n{code}{document.error.message}")
