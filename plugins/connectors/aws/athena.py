"""Tasks of type ``presto``: a query of Amazon Athena.

States and errors as the Athena API of 2017-05-18 documents them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec
from flyteidl2.core import literals_pb2

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    ConnectorSetup,
    Dataset,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates
from propfan.plugins.connectors.aws import console
from propfan.plugins.connectors.aws.clients import Clients
from propfan.plugins.connectors.aws.failures import code_of, message_of, told

OUTPUT: Final = "results"
"""What the SDK calls the output of a query."""

PHASES: Final[Mapping[str, RemotePhase]] = {
    "QUEUED": RemotePhase.QUEUED,
    "RUNNING": RemotePhase.RUNNING,
    "SUCCEEDED": RemotePhase.SUCCEEDED,
    "FAILED": RemotePhase.FAILED,
    "CANCELLED": RemotePhase.ABORTED,
}
"""By ``QueryExecutionStatus.State``. From RUNNING a query may go back to QUEUED."""

_S3: Final = "s3://"
_WORKGROUPS_OWN: Final = "workgroup"
_NOT_FOUND: Final = "was not found"
"""In the message of ``InvalidRequestException`` for a query that Athena does not know, or not any more (45 days)."""

_UNLOAD: Final = re.compile(r"unload\b.*\bto\s+'(s3://[^']+)'\s*with\s*\((.*)\)\Z", re.IGNORECASE | re.DOTALL)
_FORMAT: Final = re.compile(r"\bformat\s*=\s*'([A-Za-z]+)'", re.IGNORECASE)


class PrestoQuery(msgspec.Struct, frozen=True, rename={"routing_group": "routingGroup"}):
    """``custom`` of a task (``flyteidl.plugins.PrestoQuery``); each field may hold Flyte's placeholders.

    Attributes:
        schema: The database.
        routing_group: The workgroup.
    """

    statement: str
    schema: str = ""
    routing_group: str = ""
    catalog: str = ""


class QueryMeta(ResourceMeta, frozen=True):
    """What finds the query again, and what is told of its results.

    Attributes:
        results: Type of the output that the task declares: ``schema``, ``structured_dataset_type``, or empty.
        location: Where an ``UNLOAD`` puts its files; empty when the results are Athena's own file.
        format: Of those files.
    """

    query_id: str
    region: str
    results: str = ""
    location: str = ""
    format: str = "csv"


class AthenaConnector(AsyncConnector[QueryMeta]):
    """Each attempt is one query, however often it is started: Athena knows it by its request token."""

    name = "Athena Connector"
    categories = (TaskCategory("presto"),)
    meta_type = QueryMeta
    max_concurrent_calls = 50

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._clients: Final = Clients(self)
        self._config: Final = self._clients.config.athena

    def create(self, task: TaskRequest) -> QueryMeta:
        query = _rendered(task, self._raw_prefix(task))
        if not query.statement.strip():
            raise BadTaskSpecificationError(f"task '{task.template.id.name}': custom.statement is empty")
        request: dict[str, Any] = {
            "QueryString": query.statement,
            # At least 32 characters, which names of attempts need not have.
            "ClientRequestToken": hashlib.sha256(task.unique_name().encode()).hexdigest(),
        }
        names = {"Database": query.schema, "Catalog": query.catalog or self._config.catalog}
        if context := {key: name for key, name in names.items() if name}:
            request["QueryExecutionContext"] = context
        if workgroup := query.routing_group or self._config.workgroup:
            request["WorkGroup"] = workgroup
        if location := self._output_location(task):
            request["ResultConfiguration"] = {"OutputLocation": location}
        client = self._clients.client("athena", "", task.connection)
        with told("athena: start the query", self.setup):
            answer = client.start_query_execution(**request)
        declared = {entry.key: entry.value.type for entry in task.template.interface.outputs.variables}
        results = declared[OUTPUT].WhichOneof("type") or "" if OUTPUT in declared else ""
        location, file_format = _unloaded(query.statement)
        return QueryMeta(answer["QueryExecutionId"], client.meta.region_name, results, location, file_format)

    def get(self, meta: QueryMeta, job: JobContext) -> Resource:
        from botocore.exceptions import ClientError

        client = self._clients.client("athena", meta.region, job.connection)
        with told(f"athena: look at query '{meta.query_id}'", self.setup):
            try:
                query = client.get_query_execution(QueryExecutionId=meta.query_id)["QueryExecution"]
            except ClientError as error:
                if _NOT_FOUND not in message_of(error):
                    raise
                return Resource(RemotePhase.ABORTED, f"Athena does not know query '{meta.query_id}', or not any more")
        status = query["Status"]
        state = str(status["State"])
        phase = PHASES.get(state)
        if phase is None:
            problem = f"query '{meta.query_id}' has a state that is not known here: '{state[:100]}'"
            raise TransientError("", f"athena: {problem}")
        failure = status.get("AthenaError", {})
        if phase is RemotePhase.FAILED and failure.get("Retryable"):
            phase = RemotePhase.RETRYABLE_FAILED
        reason = str(status.get("StateChangeReason") or failure.get("ErrorMessage") or "")
        message = f"query '{meta.query_id}': {reason or state}"
        page = console.link(client, "Athena query", "athena", f"/query-editor/history/{quote(meta.query_id)}")
        if phase is not RemotePhase.SUCCEEDED or not meta.results:
            return Resource(phase, message, [page], custom_info=_info(query))
        location = meta.location or str(query.get("ResultConfiguration", {}).get("OutputLocation", ""))
        if not location:
            way_out = "set connectors.aws.athena.output-location, or a workgroup that keeps results in S3"
            problem = f"has results in Athena's own storage, which no task can read: {way_out}"
            return Resource(RemotePhase.FAILED, f"query '{meta.query_id}' {problem}", [page], custom_info=_info(query))
        outputs = {OUTPUT: _results(meta, location)}
        return Resource(phase, message, [page], outputs, _info(query))

    def delete(self, meta: QueryMeta, job: JobContext) -> None:
        from botocore.exceptions import ClientError

        client = self._clients.client("athena", meta.region, job.connection)
        with told(f"athena: stop query '{meta.query_id}'", self.setup):
            try:
                client.stop_query_execution(QueryExecutionId=meta.query_id)
            except ClientError as error:
                if code_of(error) != "InvalidRequestException" or not self.get(meta, job).phase.is_terminal:
                    raise

    async def close(self) -> None:
        self._clients.close()

    def _output_location(self, task: TaskRequest) -> str:
        """Below which Athena puts the results; empty leaves it to the workgroup."""
        if self._config.output_location:
            return "" if self._config.output_location == _WORKGROUPS_OWN else self._config.output_location
        return f"{task.output_prefix}/athena/" if task.output_prefix.startswith(_S3) else ""

    def _raw_prefix(self, task: TaskRequest) -> str:
        """Where the attempt's own files go: nothing is there yet, as ``UNLOAD`` wants it."""
        own = task.output_prefix
        if not own.startswith(_S3) and self._config.output_location.startswith(_S3):
            own = f"{self._config.output_location.rstrip('/')}/{task.unique_name()}"
        return f"{own}/raw"


def _rendered(task: TaskRequest, raw_prefix: str) -> PrestoQuery:
    """The query with its placeholders replaced."""
    query = task.custom(PrestoQuery)
    paths = IOPaths("", task.output_prefix, raw_prefix, "", "", "", "", "")
    inputs = literals_pb2.LiteralMap(literals={literal.name: literal.value for literal in task.literals.literals})
    name = task.unique_name()
    namespace = task.metadata.namespace if task.metadata is not None else ""
    parameters = TemplateParameters(name, namespace, paths, inputs)
    try:
        texts = compile_templates(msgspec.structs.astuple(query)).render(parameters)
    except PermanentError as error:
        raise BadTaskSpecificationError(f"task '{task.template.id.name}': custom.statement: {error.message}") from None
    return PrestoQuery(*texts)


def _unloaded(statement: str) -> tuple[str, str]:
    """Where an ``UNLOAD`` puts its files, and their format; of other statements the format of Athena's own file."""
    text = statement.strip().removesuffix(";").rstrip()
    # Without that end the search would try each beginning to the end.
    match = _UNLOAD.match(text) if text.endswith(")") else None
    if match is None:
        return "", "csv"
    file_format = _FORMAT.search(match[2])
    return match[1], file_format[1].lower() if file_format else ""


def _results(meta: QueryMeta, location: str) -> Any:
    """As the task declares them."""
    if meta.results == "schema":
        return literals_pb2.Literal(scalar=literals_pb2.Scalar(schema=literals_pb2.Schema(uri=location)))
    return Dataset(location, meta.format)


def _info(query: Mapping[str, Any]) -> dict[str, Any]:
    statistics = query.get("Statistics", {})
    info = {
        "query_execution_id": query.get("QueryExecutionId"),
        "workgroup": query.get("WorkGroup"),
        "statement_type": query.get("StatementType"),
        "scanned_bytes": statistics.get("DataScannedInBytes"),
        "queued_ms": statistics.get("QueryQueueTimeInMillis"),
        "executed_ms": statistics.get("EngineExecutionTimeInMillis"),
    }
    return {name: value for name, value in info.items() if value is not None}
