"""Batches: many requests in one file, which OpenAI works off within a day."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from propfan.pluginmachinery.connector import (
    AsyncConnector,
    ConnectorSetup,
    JobContext,
    RemotePhase,
    Resource,
    ResourceMeta,
    TaskCategory,
    TaskRequest,
)
from propfan.pluginmachinery.errors import BadTaskSpecificationError, DecodeError
from propfan.plugins.connectors.openai.account import Account, Accounts
from propfan.plugins.connectors.openai.underway import Underway

if TYPE_CHECKING:
    from openai.types import Batch

NAME_KEY: Final = "propfan_job"
"""Key of a batch's metadata whose value names the attempt that the batch belongs to."""

_MAX_METADATA: Final = 16
"""Pairs that the API takes (https://platform.openai.com/docs/api-reference/batch/create)."""

_PAGE: Final = 100
"""Most batches that the API lists at once."""

_SHOWN_ERRORS: Final = 5

_PHASES: Final[Mapping[str, RemotePhase]] = {
    "validating": RemotePhase.INITIALIZING,
    "in_progress": RemotePhase.RUNNING,
    "finalizing": RemotePhase.RUNNING,
    "cancelling": RemotePhase.RUNNING,
    "completed": RemotePhase.SUCCEEDED,
    "failed": RemotePhase.FAILED,
    "expired": RemotePhase.FAILED,
    "cancelled": RemotePhase.ABORTED,
}
"""All states of https://platform.openai.com/docs/api-reference/batch/object."""

_IS_OVER: Final = frozenset({"completed", "failed", "expired", "cancelling", "cancelled"})
"""What needs no cancellation."""


class BatchSpec(msgspec.Struct, frozen=True):
    """``custom`` of a task of type ``openai-batch``.

    Attributes:
        config: Members of the request; window and endpoint have defaults.
    """

    config: dict[str, Any] | None = None
    openai_organization: str | None = None


class BatchMeta(ResourceMeta, frozen=True):
    """Finds the batch again.

    Attributes:
        organization: Whose batch it is; empty for the key's own.
    """

    batch_id: str
    organization: str = ""


class BatchConnector(AsyncConnector[BatchMeta]):
    """Starts a batch over an uploaded file, and answers with the finished batch as ``result``.

    **How often a batch is started.** Its metadata names the attempt (``propfan_job``). A call looks for that name
    among the newest ``search_batches`` batches before it starts one, calls for one attempt join in one process, and
    a call that was given up is seen through. Two can come into being only where a second process asks before the
    first one's batch is listed, or after that many others were started. The ``Idempotency-Key`` that is sent as
    well would close the gap, but the API does not promise to heed it.
    """

    name = "OpenAI Batch Connector"
    categories = (TaskCategory("openai-batch"),)
    meta_type = BatchMeta

    def __init__(self, setup: ConnectorSetup) -> None:
        super().__init__(setup)
        self._accounts: Final = Accounts(self)
        self._creations: Final[Underway[BatchMeta]] = Underway()

    async def create(self, task: TaskRequest) -> BatchMeta:
        spec = task.custom(BatchSpec)
        name, organization = task.unique_name(), spec.openai_organization or ""
        request = _request(spec.config or {}, task, name)
        account = await self._accounts.open(task.connection, organization)
        return await self._creations.join(name, lambda: self._create(account, request, name, organization))

    async def _create(self, account: Account, request: dict[str, Any], name: str, organization: str) -> BatchMeta:
        found = await self._find(account, name)
        if found is not None:
            return BatchMeta(found, organization)
        members = dict(request)
        with account.asking(f"start a batch over file '{request['input_file_id']}' (input_file_id)"):
            batch = await account.client.batches.create(
                input_file_id=members.pop("input_file_id"),
                endpoint=members.pop("endpoint"),
                completion_window=members.pop("completion_window"),
                metadata=members.pop("metadata"),
                extra_body=members,  # whatever the API knows by now
                extra_headers={"Idempotency-Key": name},
            )
        return BatchMeta(batch.id, organization)

    async def _find(self, account: Account, name: str) -> str | None:
        """Id of the batch that an earlier call started; ``None`` when it is not among the newest."""
        left = self._accounts.config.search_batches
        if not left:
            return None
        with account.looking_for(f"the batch of '{name}'"):
            async for batch in account.client.batches.list(limit=min(left, _PAGE)):
                if (batch.metadata or {}).get(NAME_KEY) == name:
                    return batch.id
                left -= 1
                if left <= 0:
                    break
        return None

    async def get(self, meta: BatchMeta, job: JobContext) -> Resource:
        batch = await self._retrieve(await self._accounts.open(job.connection, meta.organization), meta)
        if batch is None:
            reason = "it was deleted, or belongs to another project than the key"
            return Resource(RemotePhase.FAILED, f"batch '{meta.batch_id}' is not known (any more): {reason}")
        phase = _PHASES.get(batch.status)
        if phase is None:
            known = ", ".join(_PHASES)
            raise DecodeError(f"batch '{batch.id}'", f"state '{batch.status}' is not known; known are {known}")
        return Resource(
            phase,
            _message(batch),
            log_links=self._accounts.log_links(f"batches/{batch.id}", "OpenAI Batch"),
            outputs={"result": batch.to_dict()} if phase is RemotePhase.SUCCEEDED else None,
            custom_info=_info(batch),
        )

    async def delete(self, meta: BatchMeta, job: JobContext) -> None:
        import openai

        account = await self._accounts.open(job.connection, meta.organization)
        with account.asking(f"cancel batch '{meta.batch_id}'"):
            try:
                await account.client.batches.cancel(meta.batch_id)
            except openai.NotFoundError:
                return
            except (
                openai.BadRequestError,
                openai.ConflictError,
            ):  # of one that is over; which it is, is not documented
                batch = await self._retrieve(account, meta)
                if batch is not None and batch.status not in _IS_OVER:
                    raise

    async def _retrieve(self, account: Account, meta: BatchMeta) -> Batch | None:
        import openai

        with account.asking(f"look at batch '{meta.batch_id}'"):
            try:
                return await account.client.batches.retrieve(meta.batch_id)
            except openai.NotFoundError:
                return None

    async def close(self) -> None:
        await self._creations.close()
        await self._accounts.close()


def _request(config: Mapping[str, Any], task: TaskRequest, name: str) -> dict[str, Any]:
    """The request's members.

    Raises:
        BadTaskSpecificationError: it can not be made of the task.
    """

    def refused(field: str, rule: str) -> BadTaskSpecificationError:
        return BadTaskSpecificationError(f"task '{task.template.id.name}' (openai-batch): {field} {rule}")

    file_id, metadata = task.inputs().get("input_file_id"), config.get("metadata") or {}
    if not isinstance(file_id, str) or not file_id:
        raise refused("input 'input_file_id'", "must be the id of an uploaded file, e.g. file-abc123")
    if not isinstance(metadata, Mapping) or not all(isinstance(value, str) for value in metadata.values()):
        raise refused("custom.config.metadata", "must map texts to texts")
    if len(metadata) >= _MAX_METADATA:
        rule = f"can have {_MAX_METADATA - 1} pairs: the API takes {_MAX_METADATA}, and one names the task's attempt"
        raise refused("custom.config.metadata", rule)
    return {
        "completion_window": "24h",
        "endpoint": "/v1/chat/completions",
        **config,
        "input_file_id": file_id,
        "metadata": {**metadata, NAME_KEY: name},
    }


def _message(batch: Batch) -> str:
    """What there is to say of the state, with the errors of a batch that was not taken."""
    counts = batch.request_counts
    progress = f"{counts.completed} of {counts.total} requests are done, {counts.failed} failed" if counts else ""
    match batch.status:
        case "failed":
            return f"batch '{batch.id}' failed: {_errors(batch) or 'the service does not say why'}"
        case "expired":
            window = f"batch '{batch.id}' was not finished within {batch.completion_window}"
            kept = f"answers so far are in file '{batch.output_file_id}'" if batch.output_file_id else ""
            return "; ".join(part for part in (window, progress, kept) if part)
        case "cancelling" | "cancelled":
            done = "is being cancelled" if batch.status == "cancelling" else "was cancelled"
            return "; ".join(part for part in (f"batch '{batch.id}' {done}", progress) if part)
        case "completed" if counts and counts.failed and batch.error_file_id:
            return f"{progress}; their errors are in file '{batch.error_file_id}'"
        case _:
            return progress


def _errors(batch: Batch) -> str:
    found = (batch.errors.data if batch.errors is not None else None) or []
    told = []
    for error in found[:_SHOWN_ERRORS]:
        place = f"line {error.line}: " if error.line is not None else ""
        parameter = f" ({error.param})" if error.param else ""
        told.append(f"{place}{error.message or error.code}{parameter}")
    more = len(found) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more > 0 else "")


def _info(batch: Batch) -> dict[str, Any]:
    counts = batch.request_counts
    info = {
        "status": batch.status,
        "request_counts": counts.to_dict() if counts is not None else {},
        "input_file_id": batch.input_file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
    }
    return {name: value for name, value in info.items() if value}
