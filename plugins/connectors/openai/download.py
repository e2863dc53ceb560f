"""Downloads: the answers of a finished batch go from OpenAI to the object store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio.to_thread

from propfan.pluginmachinery.connector import TaskCategory, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError, TransientError
from propfan.plugins.connectors.openai.account import Account, SecretName
from propfan.plugins.connectors.openai.transfers import (
    Outputs,
    TransferConnector,
    TransferMeta,
    TransferSpec,
    deliver,
    scratch_file,
)

if TYPE_CHECKING:
    from openai._legacy_response import HttpxBinaryResponseContent
    from openai._response import AsyncStreamedBinaryAPIResponse

_FILES: Final = ("output_file", "error_file")
"""Members of the result; a batch has their ids as ``<member>_id``."""

_PART_BYTES: Final = 1024 * 1024


class DownloadMeta(TransferMeta, frozen=True):
    """``files`` maps members of the result to ids of files; absent are those that the batch does not have."""

    files: Mapping[str, str]

    def uri(self, member: str) -> str:
        return f"{self.folder}/{member}.jsonl"


class DownloadConnector(TransferConnector[DownloadMeta]):
    """Writes the files of the batch ``batch_endpoint_result`` below the output prefix.

    Answers with ``result``, as the SDK's ``BatchResult`` is packed: ``output_file`` and ``error_file``, each with its
    ``path``, or null where the batch has no such file. A file that is there already is not moved again.
    """

    name = "OpenAI Download Connector"
    categories = (TaskCategory("openai-batch-download-files"),)
    meta_type = DownloadMeta

    def _meta(self, task: TaskRequest, folder: str, spec: TransferSpec) -> DownloadMeta:
        batch = task.inputs().get("batch_endpoint_result")
        if not isinstance(batch, Mapping) or not any(f"{member}_id" in batch for member in _FILES):
            rule = "must be a finished batch, with output_file_id and error_file_id"
            raise BadTaskSpecificationError(f"task '{task.template.id.name}': input 'batch_endpoint_result' {rule}")
        files = {member: batch[f"{member}_id"] for member in _FILES if batch.get(f"{member}_id")}
        for member, file_id in files.items():
            if not isinstance(file_id, str):
                problem = f"batch_endpoint_result.{member}_id must be the id of a file or null"
                raise BadTaskSpecificationError(f"task '{task.template.id.name}': {problem}")
        secret, organization = spec.secret_arg or SecretName(), spec.openai_organization or ""
        return DownloadMeta(task.unique_name(), folder, organization, secret, files)

    async def _find(self, account: Account, meta: DownloadMeta) -> Outputs | None:
        return None if await self._missing(meta) else _outputs(meta)

    async def _missing(self, meta: DownloadMeta) -> Sequence[str]:
        """Members whose files are still to be moved."""
        return [member for member in meta.files if await self.setup.store.size(meta.uri(member)) is None]

    async def _transfer(self, account: Account, meta: DownloadMeta) -> Outputs:
        for member in await self._missing(meta):
            with scratch_file() as file:
                await self._download(account, meta.files[member], file)
                await deliver(self.setup.store, meta.uri(member), file)
        return _outputs(meta)

    async def _download(self, account: Account, file_id: str, file: Path) -> None:
        limit_bytes, size_bytes = self._accounts.config.max_file_bytes, 0
        # Opened here: a file that a thread opens is lost if this is cancelled meanwhile.
        with file.open("wb") as target, account.asking(f"download file '{file_id}' (batch_endpoint_result)"):
            async with account.client.files.with_streaming_response.content(file_id) as answer:
                async for part in _parts(answer, file_id):
                    size_bytes += len(part)
                    if size_bytes > limit_bytes:
                        way_out = f"the limit is {limit_bytes} bytes (openai.max-file-bytes)"
                        raise PermanentError("", f"openai: file '{file_id}' is too large: {way_out}")
                    await anyio.to_thread.run_sync(target.write, part)


async def _parts(
    answer: AsyncStreamedBinaryAPIResponse | HttpxBinaryResponseContent, file_id: str
) -> AsyncIterator[bytes]:
    """The answer's body; a connection that breaks is an error, also one that the vendor's library lets pass."""
    parts = answer.iter_bytes(_PART_BYTES)
    while True:
        try:
            part = await anext(parts)  # type: ignore[arg-type]
        except StopAsyncIteration:
            return
        except Exception as error:  # of the HTTP library, which is another one in each version of the vendor's
            problem = f"the connection broke: {str(error) or type(error).__name__}"
            raise TransientError("", f"openai: download file '{file_id}': {problem}") from error
        yield part


def _outputs(meta: DownloadMeta) -> Outputs:
    # flytekit opens a file of this machine by its path only, and takes `file://` for a part of its name.
    paths = {member: meta.uri(member).removeprefix("file://") for member in meta.files}
    return {"result": {member: {"path": paths[member]} if member in paths else None for member in _FILES}}
