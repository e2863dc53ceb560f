"""``flyteidl2.dataproxy.DataProxyService``: data and logs between clients and the store."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flyteidl2.common import run_pb2
from flyteidl2.dataproxy import dataproxy_service_pb2
from flyteidl2.dataproxy.dataproxy_service_connect import DataProxyService

from propfan.engine.control_plane import inputs
from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.records import ROOT, ActionKey
from propfan.engine.control_plane.services.context import Context
from propfan.engine.control_plane.services.requests import task_of
from propfan.engine.control_plane.signing import DownloadGrant, UploadGrant
from propfan.engine.control_plane.transfers import DOWNLOAD, UPLOAD
from propfan.pluginmachinery import iopaths

if TYPE_CHECKING:
    from propfan.engine.control_plane.plane import ControlPlane

_MD5_BYTES: Final = 16


class DataProxy(DataProxyService):
    def __init__(self, plane: ControlPlane) -> None:
        self._plane: Final = plane

    async def create_upload_location(
        self, request: dataproxy_service_pb2.CreateUploadLocationRequest, ctx: Context
    ) -> dataproxy_service_pb2.CreateUploadLocationResponse:
        config = self._plane.config
        md5 = request.content_md5
        if md5 and len(md5) != _MD5_BYTES:
            raise InvalidRequestError("content_md5", f"must have {_MD5_BYTES} bytes, has {len(md5)}")
        if request.content_length > config.max_upload_bytes:
            raise InvalidRequestError(
                "content_length", f"{request.content_length} is more than the limit of {config.max_upload_bytes} bytes"
            )
        parts = [request.org or config.organization, request.project, request.domain, "uploads"]
        root = request.filename_root or md5.hex() or f"{time.time_ns():x}"
        name = request.filename or "file"
        for field, value in (("filename", name), ("filename_root", root), ("project", request.project)):
            if any(part in ("", ".", "..") for part in value.split("/")) or "\0" in value:
                raise InvalidRequestError(field, f"{value!r} can not be a part of a path")
        uri = iopaths.join(self._plane.store_root, *filter(None, parts), root, name)
        expires_s = time.time() + config.upload_ttl_s
        token = self._plane.signer.sign(UploadGrant(uri, expires_s, md5, config.max_upload_bytes))
        answer = dataproxy_service_pb2.CreateUploadLocationResponse(
            signed_url=f"{config.upload_url or config.endpoint}{UPLOAD}{token}", native_url=uri
        )
        answer.expires_at.FromDatetime(datetime.fromtimestamp(expires_s, UTC))
        return answer

    async def upload_inputs(
        self, request: dataproxy_service_pb2.UploadInputsRequest, ctx: Context
    ) -> dataproxy_service_pb2.UploadInputsResponse:
        task = await task_of(self._plane.catalog, request)
        whole = inputs.with_defaults(task, request.inputs)
        inputs_hash = inputs.hash_of(task, whole)
        is_named = request.WhichOneof("id") == "run_id"
        project = request.run_id.project if is_named else request.project_id.name
        domain = request.run_id.domain if is_named else request.project_id.domain
        base = request.base_dir or iopaths.join(self._plane.store_root, project, domain)
        uri = await inputs.store(self._plane.store, iopaths.join(base, "inputs", inputs_hash), whole)
        stored = run_pb2.OffloadedInputData(uri=uri, inputs_hash=inputs_hash)
        return dataproxy_service_pb2.UploadInputsResponse(offloaded_input_data=stored)

    async def create_download_link(
        self, request: dataproxy_service_pb2.CreateDownloadLinkRequest, ctx: Context
    ) -> dataproxy_service_pb2.CreateDownloadLinkResponse:
        if request.WhichOneof("source") != "action_attempt_id":
            raise InvalidRequestError("source", "only an action's attempt has files to download")
        named = request.action_attempt_id
        record = await self._plane.ledger.action(ActionKey(named.action_id.run.name, named.action_id.name))
        if request.artifact_type == dataproxy_service_pb2.ARTIFACT_TYPE_CODE_BUNDLE:
            task = await self._plane.ledger.task_spec(record)
            uri = task.task_template.metadata.code_bundle_uri if task is not None else ""
        else:
            uri = iopaths.join(self._plane.attempt_prefix(record, named.attempt), iopaths.REPORT_FILE)
        if not uri:
            raise InvalidRequestError("artifact_type", "the action has none of this kind")
        expires_s = time.time() + self._plane.config.upload_ttl_s
        token = self._plane.signer.sign(DownloadGrant(uri, expires_s))
        url = f"{self._plane.config.upload_url or self._plane.config.endpoint}{DOWNLOAD}{token}"
        urls = dataproxy_service_pb2.PreSignedURLs(signed_url=[url])
        urls.expires_at.FromDatetime(datetime.fromtimestamp(expires_s, UTC))
        return dataproxy_service_pb2.CreateDownloadLinkResponse(pre_signed_urls=urls)

    async def get_action_data(
        self, request: dataproxy_service_pb2.GetActionDataRequest, ctx: Context
    ) -> dataproxy_service_pb2.GetActionDataResponse:
        action = request.action_id
        return await self._plane.data(ActionKey(action.run.name, action.name or ROOT))

    async def tail_logs(
        self, request: dataproxy_service_pb2.TailLogsRequest, ctx: Context
    ) -> AsyncIterator[dataproxy_service_pb2.TailLogsResponse]:
        action = request.action_id
        key = ActionKey(action.run.name, action.name or ROOT)
        async for lines in self._plane.logs.follow(key, request.attempt or 1):
            logs = dataproxy_service_pb2.TailLogsResponse.Logs(lines=lines)
            yield dataproxy_service_pb2.TailLogsResponse(logs=[logs])
