"""The plugin: a job's calls, routed to its connector."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from flyteidl2.connector import connector_pb2
from flyteidl2.core import execution_pb2, security_pb2, tasks_pb2

from propfan.pluginmachinery.contexts import ResourceConstraints, SecretManager, TaskContext, secrets_of
from propfan.pluginmachinery.entries import SetupContext
from propfan.pluginmachinery.errors import (
    CORRUPTED_PLUGIN_STATE,
    PermanentError,
    TaskError,
    TransientError,
)
from propfan.pluginmachinery.loglinks import LogInput, LogLinks
from propfan.pluginmachinery.phases import PhaseInfo, TaskLog, failure
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates
from propfan.pluginmachinery.web_plugin import (
    CreatedResource,
    Discovery,
    Pace,
    ResourceDemand,
    WebContext,
    WebPluginConfig,
)
from propfan.plugins.connector import verdicts, wire
from propfan.plugins.connector.channels import NOT_IMPLEMENTED, TOO_LARGE
from propfan.plugins.connector.config import SECTION, ConnectorServiceConfig, Family
from propfan.plugins.connector.directory import NOT_FOUND, Connector, Directory


class JobReference(msgspec.Struct, frozen=True, array_like=True):
    """What is persisted of a job. It holds no secrets, only their names.

    Attributes:
        connector: Its id in the configuration.
        family: Of the service that made it.
        meta: What the connector answered; opaque.
        run_project, run_domain: Whose secrets its connection may have.
    """

    connector: str
    family: Family
    task_type: str
    version: int
    project: str
    domain: str
    output_prefix: str
    meta: bytes
    connection: wire.ConnectionNames = wire.ConnectionNames()
    run_project: str = ""
    run_domain: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_decoder: Final = msgspec.msgpack.Decoder(JobReference)
_compiled: Final = lru_cache(maxsize=256)(compile_templates)


class ConnectorPlugin:
    """An ``AsyncWebPlugin`` whose look at a job is the connector's answer as it came, bytes and all."""

    def __init__(self, config: ConnectorServiceConfig, secrets: SecretManager) -> None:
        config.check()
        self._config: Final = config
        self._secrets: Final = secrets
        self._directory: Final = Directory(config, secrets)
        self._app_links: Final = LogLinks(config.logs).plan(None)
        constraints = config.resource_constraints
        self._demand: Final = ResourceDemand(
            next(iter(config.web_api.resource_quotas), "default"),
            ResourceConstraints(constraints.project_scope.value or None, constraints.namespace_scope.value or None),
        )

    @classmethod
    def from_setup(cls, setup: SetupContext) -> ConnectorPlugin:
        """Raises ``ConfigError`` when the section is wrong."""
        return cls(setup.section(SECTION, ConnectorServiceConfig), setup.secrets)

    def get_config(self) -> WebPluginConfig:
        return self._config.web_api

    def discovered(self) -> Discovery:
        return self._directory.discovered()

    async def run(self) -> None:
        """Asks connectors what they offer."""
        await self._directory.run()

    def pace(self, ctx: TaskContext) -> Pace:
        template = ctx.template
        interval = self._config.poll_intervals.get(template.type)
        try:
            connector = self._find(template)
        except (PermanentError, TransientError):  # calls will say why
            return Pace(interval=interval)
        return Pace(connector.name, interval)

    async def resource_requirements(self, ctx: TaskContext) -> ResourceDemand:
        return self._demand

    # -- Calls -------------------------------------------------------------------------------------

    async def create(self, ctx: WebContext) -> CreatedResource:
        template = ctx.template
        connector = self._find(template)
        family = await connector.known_family()
        names = wire.connection_names(template) if family is Family.FLYTEIDL2 else wire.ConnectionNames()
        connection = await _connection(names, ctx.secrets)
        inputs = wire.inputs_message(template, await ctx.inputs.read())
        prepared = await _rendered(ctx)
        metadata = wire.metadata_message(ctx, ctx.idempotency_key)
        prefix = ctx.paths.output_prefix
        reference = JobReference(
            connector.name,
            family,
            template.type,
            template.task_type_version,
            template.id.project,
            template.id.domain,
            prefix,
            b"",
            names,
            *_run_of(ctx),
        )
        if connector.category(template.type, template.task_type_version).is_sync:
            header = connector_pb2.CreateRequestHeader(
                template=prepared, output_prefix=prefix, task_execution_metadata=metadata, connection=connection
            )
            requests = (wire.sync_header(header), wire.sync_inputs(inputs))
            answer = wire.sync_resource(await connector.channel.exchange(family, "ExecuteTaskSync", requests))
            return CreatedResource(_encode(reference), _ended(connector, answer))
        request = connector_pb2.CreateTaskRequest(
            inputs=inputs,
            template=prepared,
            output_prefix=prefix,
            task_execution_metadata=metadata,
            connection=connection,
        )
        answer = await connector.channel.call(family, "CreateTask", request.SerializeToString())
        return CreatedResource(_encode(msgspec.structs.replace(reference, meta=wire.created_meta(answer))))

    async def get(self, meta: bytes) -> bytes:
        job = _reference(meta)
        try:
            connector = self._connector_of(job)
            request = connector_pb2.GetTaskRequest(
                resource_meta=job.meta,
                task_category=_category(job),
                output_prefix=job.output_prefix,
                connection=await _connection(job.connection, self._secrets_of(job)),
            )
            return await connector.channel.call(job.family, "GetTask", request.SerializeToString())
        except PermanentError as error:
            raise _mendable(error, TOO_LARGE) from error

    async def delete(self, meta: bytes, reason: str) -> None:
        job = _reference(meta)
        try:
            connector = self._connector_of(job)
            request = connector_pb2.DeleteTaskRequest(
                resource_meta=job.meta,
                task_category=_category(job),
                connection=await _connection(job.connection, self._secrets_of(job)),
            )
            await connector.channel.call(job.family, "DeleteTask", request.SerializeToString())
        except PermanentError as error:
            raise _mendable(error, NOT_IMPLEMENTED) from error

    async def status(self, ctx: TaskContext, meta: bytes, resource: bytes) -> PhaseInfo:
        answer = wire.resource(resource)
        problems = "; ".join(verdicts.problems_of_outputs(ctx.template.interface, answer))
        job = _reference(meta)
        if problems:
            message = f"connector '{job.connector}' answered with outputs that the task does not declare so: {problems}"
            return failure(verdicts.INVALID_OUTPUTS, message, ctx.now)
        connector = self._directory.connectors.get(job.connector)
        endpoint = connector.deployment.endpoint if connector is not None else ""
        links = self.app_links(ctx, job.connector) if connector is not None and connector.is_app else ()
        return await verdicts.phase_info(ctx, answer, endpoint=endpoint, app_links=links)

    # -- What calls need ---------------------------------------------------------------------------

    def app_links(self, ctx: TaskContext, connector: str) -> tuple[TaskLog, ...]:
        """Links of the section's own ``logs``, for the tasks of connector apps."""
        given = LogInput(task_execution_id=ctx.metadata.task_execution_id, connector_id=connector)
        return self._app_links.render(given)

    def _find(self, template: tasks_pb2.TaskTemplate) -> Connector:
        it = template.id
        return self._directory.find(template.type, template.task_type_version, it.project, it.domain)

    def _connector_of(self, job: JobReference) -> Connector:
        """The one that made the job, under whatever endpoint it has now; else whoever runs such tasks now."""
        connector = self._directory.connectors.get(job.connector)
        if connector is not None:
            return connector
        try:
            return self._directory.find(job.task_type, job.version, job.project, job.domain)
        except (PermanentError, TransientError) as error:
            message = (
                f"connector '{job.connector}', which has the job, is not configured any more: put it back "
                f"under plugins.{SECTION} ({error.message})"
            )
            raise TransientError(NOT_FOUND, message) from error

    def _secrets_of(self, job: JobReference) -> SecretManager:
        """Those that the task of the job may have, as ``create`` had them from its context."""
        return secrets_of(self._secrets, job.run_project, job.run_domain)


async def _connection(names: wire.ConnectionNames, secrets: SecretManager) -> security_pb2.Connection | None:
    """With the values of the secrets as they are now; ``None`` when the task has nothing to say.

    Raises:
        PermanentError: there is no such secret; named.
    """
    if not names:
        return None
    values: Mapping[str, str] = {
        logical: await _secret(logical, name, secrets) for logical, name in names.secrets.items()
    }
    return wire.connection_message(names, values)


async def _secret(logical: str, name: str, secrets: SecretManager) -> str:
    try:
        return await secrets.get(name)
    except PermanentError as error:
        message = f"secret '{name}', which the task's connection needs as '{logical}': {error.message}"
        raise PermanentError(error.code, message) from error


def _run_of(ctx: WebContext) -> tuple[str, str]:
    """Project and domain of the run; the template's own are its author's word."""
    node = ctx.metadata.task_execution_id.id.node_execution_id
    run = node.execution_id if node is not None else None
    return (run.project, run.domain) if run is not None else ("", "")


async def _rendered(ctx: WebContext) -> tasks_pb2.TaskTemplate:
    """The template with the placeholders of its command's arguments replaced."""
    template = ctx.template
    if not template.container.args:
        return template
    compiled = _compiled(tuple(template.container.args))
    if compiled.needs_task_template_path:
        await ctx.data_store.put(ctx.paths.task_template, ctx.template_bytes)
    parameters = TemplateParameters(
        ctx.metadata.task_execution_id.generated_name,
        ctx.metadata.namespace,
        ctx.paths,
        await ctx.inputs.read() if compiled.needs_inputs else None,
    )
    prepared = tasks_pb2.TaskTemplate.FromString(ctx.template_bytes)
    prepared.container.args[:] = compiled.render(parameters)
    return prepared


def _ended(connector: Connector, answer: bytes) -> bytes:
    """A synchronous answer, if it is an end."""
    phase = wire.resource(answer).phase
    kinds = execution_pb2.TaskExecution.Phase
    if phase in (kinds.SUCCEEDED, kinds.FAILED, kinds.RETRYABLE_FAILED, kinds.ABORTED):
        return answer
    name = kinds.Name(phase) if phase in kinds.values() else str(phase)
    problem = f"connector '{connector.name}' is synchronous and answered with phase {name}, which is no end"
    raise PermanentError(verdicts.FAILED, problem)


def _mendable(error: PermanentError, final: str) -> TaskError:
    """What is wrong with the configuration can be put right while a job runs, unless its code is ``final``."""
    return error if error.code == final else TaskError(error.code, error.message)


def _category(job: JobReference) -> connector_pb2.TaskCategory:
    return connector_pb2.TaskCategory(name=job.task_type, version=job.version)


def _reference(meta: bytes) -> JobReference:
    try:
        return _decoder.decode(meta)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PermanentError(CORRUPTED_PLUGIN_STATE, f"what was kept of the job can not be read: {error}") from error
