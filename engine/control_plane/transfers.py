"""Uploads and downloads by signed URL: plain HTTP ``PUT`` and ``GET``."""

from __future__ import annotations

import hashlib
import time
from typing import Final

from propfan.engine.control_plane.asgi import Receive, Scope, Send, answer, answer_error
from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.signing import DownloadGrant, Signer, UploadGrant
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.errors import ObjectNotFoundError, StorageError

UPLOAD: Final = "/upload/"
DOWNLOAD: Final = "/download/"


class Transfers:
    """Moves whole objects to and from the store."""

    def __init__(self, store: DataStore, signer: Signer) -> None:
        self._store: Final = store
        self._signer: Final = signer

    async def upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "PUT":
            await answer_error(send, 405, "unimplemented", "an upload is a PUT")
            return
        try:
            grant = self._signer.read(scope["path"].removeprefix(UPLOAD), time.time())
        except InvalidRequestError as error:
            await answer_error(send, 403, "permission_denied", str(error))
            return
        if not isinstance(grant, UploadGrant):
            await answer_error(send, 403, "permission_denied", "url: is one for a download")
            return
        content = await _body(receive, grant.max_bytes)
        if content is None:
            limit = f"the content is longer than {grant.max_bytes} bytes"
            await answer_error(send, 413, "resource_exhausted", limit)
            return
        if grant.md5 and hashlib.md5(content, usedforsecurity=False).digest() != grant.md5:
            await answer_error(send, 400, "invalid_argument", "content-md5: is not that of the content")
            return
        try:
            await self._store.put(grant.uri, content)
        except StorageError as error:
            await answer_error(send, 503, "unavailable", str(error))
            return
        await answer(send, 200, b"", "text/plain")

    async def download(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            grant = self._signer.read(scope["path"].removeprefix(DOWNLOAD), time.time())
        except InvalidRequestError as error:
            await answer_error(send, 403, "permission_denied", str(error))
            return
        if not isinstance(grant, DownloadGrant):
            await answer_error(send, 403, "permission_denied", "url: is one for an upload")
            return
        try:
            content = await self._store.get(grant.uri)
        except ObjectNotFoundError as error:
            await answer_error(send, 404, "not_found", str(error))
        except StorageError as error:
            await answer_error(send, 503, "unavailable", str(error))
        else:
            html = grant.uri.endswith(".html")
            await answer(send, 200, content, "text/html; charset=utf-8" if html else "application/octet-stream")


async def _body(receive: Receive, limit_bytes: int) -> bytes | None:
    """The whole body; ``None`` when it is too long."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit_bytes:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
