"""Uploads: a file of requests goes to OpenAI, where batches read it."""

from __future__ import annotations

from typing import Final

from propfan.pluginmachinery.connector import Blob, TaskCategory, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.openai.account import Account, SecretName
from propfan.plugins.connectors.openai.transfers import (
    Outputs,
    TransferConnector,
    TransferMeta,
    TransferSpec,
    fetch,
    scratch_file,
)

_PAGE: Final = 1000
"""Files that are listed at once; the API takes 10,000."""


class UploadMeta(TransferMeta, frozen=True):
    """``uri`` is that of the file of requests."""

    uri: str


class UploadConnector(TransferConnector[UploadMeta]):
    """Uploads the input ``jsonl_in`` for batches, and answers with the file's id as ``result``.

    The file is named by the attempt (``<name>.jsonl``) and looked for among the newest ``search_files`` files before
    it is uploaded. Two processes that are asked at once may both upload it: then there is one file too many, but
    never a second batch. Files that nobody deletes expire by OpenAI's own rules.
    """

    name = "OpenAI Upload Connector"
    categories = (TaskCategory("openai-batch-upload-file"),)
    meta_type = UploadMeta

    def _meta(self, task: TaskRequest, folder: str, spec: TransferSpec) -> UploadMeta:
        requests = task.inputs().get("jsonl_in")
        if not isinstance(requests, Blob) or not requests.uri or requests.is_multipart:
            rule = "must be one file with a request in each line (JSONL)"
            raise BadTaskSpecificationError(f"task '{task.template.id.name}': input 'jsonl_in' {rule}")
        if _is_local(requests.uri) and not _is_local(folder):
            rule = "is a file of the service's own machine, which is no task's to read: put it where outputs go"
            raise BadTaskSpecificationError(f"task '{task.template.id.name}': input 'jsonl_in' {rule}")
        secret, organization = spec.secret_arg or SecretName(), spec.openai_organization or ""
        return UploadMeta(task.unique_name(), folder, organization, secret, requests.uri)

    async def _find(self, account: Account, meta: UploadMeta) -> Outputs | None:
        left = self._accounts.config.search_files
        if not left:
            return None
        with account.looking_for(f"file '{meta.name}.jsonl'"):
            async for file in account.client.files.list(purpose="batch", order="desc", limit=min(left, _PAGE)):
                if file.filename == f"{meta.name}.jsonl" and file.status != "error":
                    return {"result": file.id}
                left -= 1
                if left <= 0:
                    break
        return None

    async def _transfer(self, account: Account, meta: UploadMeta) -> Outputs:
        with scratch_file() as file:
            await fetch(self.setup.store, meta.uri, file, self._accounts.config.max_file_bytes)
            # The vendor's library reads it in parts of 64 KiB, on the event loop.
            with file.open("rb") as content, account.asking(f"upload {meta.uri}"):
                uploaded = await account.client.files.create(file=(f"{meta.name}.jsonl", content), purpose="batch")
        return {"result": uploaded.id}


def _is_local(uri: str) -> bool:
    return uri.startswith("/") or uri.lower().startswith("file:")
