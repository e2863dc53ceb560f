"""A server that speaks OpenAI's API, as far as chats, files and batches need it.

Follows the published reference (https://platform.openai.com/docs/api-reference, OpenAPI document 2.3.0): ``/files``
(upload with purpose ``batch``, list, retrieve, content), ``/batches`` (create, list, retrieve, cancel) and
``/chat/completions``, with the reference's shapes of objects, lists and errors. Requests are checked strictly. Batches
are really worked off: a state further with each look, each line of the input file as a request of its own, answers and
errors into files. Models are made up: ``echo`` says what it heard; others are named in ``MODELS``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from aiohttp import BodyPartReader, web

from tests.unit.plugins.connectors import loopback

KEY: Final = "sk-test-0123456789abcdef"
ORGANIZATION: Final = "org-propfan"

ENDPOINTS: Final = frozenset({"/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/responses"})
MODELS: Final[Mapping[str, Mapping[str, Any]]] = {
    "echo": {},
    "refuses": {"content": None, "refusal": "I can not do that."},
    "silent": {"content": None},
    "calls-tools": {"content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f"}}]},
}
_FINISH_REASONS: Final = {"calls-tools": "tool_calls", "thinks": "length", "filtered": "content_filter"}

_NEXT: Final = {"in_progress": "finalizing", "finalizing": "completed", "cancelling": "cancelled"}
_COUNTED: Final = ("validating", "in_progress", "finalizing")


class Fault(msgspec.Struct, frozen=True):
    """How the next request is answered whose method and path begin with ``where``.

    Attributes:
        is_done: Whether the request is carried out all the same: its answer is lost.
        is_cut: The answer's body ends before its time.
        text: Sent in place of an answer of the API's.
        content_type: Of ``text``.
    """

    where: str
    status: int = 500
    code: str | None = None
    message: str = "The server had an error while processing your request."
    headers: Mapping[str, str] = {}
    is_done: bool = False
    is_cut: bool = False
    text: str = ""
    content_type: str = "text/html"


class ApiError(Exception):
    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


class ApiServer:
    """The state of the service. Files lie in ``folder``, and never in memory.

    Attributes:
        url: Of the API, once it runs.
        calls: Method and path of each request.
        headers: Of the latest request.
        is_held: Batches stay as they are.
        takes_uploads: Uploads wait for it.
        cancel_status: How the cancellation of a batch that is over is refused, which is not documented.
    """

    def __init__(self, folder: Path) -> None:
        self.url = ""
        self.folder: Final = folder
        self.files: Final[dict[str, dict[str, Any]]] = {}
        self.batches: Final[dict[str, dict[str, Any]]] = {}
        self.calls: Final[list[str]] = []
        self.bodies: Final[list[dict[str, Any]]] = []
        self.headers: Mapping[str, str] = {}
        self.faults: Final[list[Fault]] = []
        self.is_held = False
        self.takes_uploads = anyio.Event()
        self.takes_uploads.set()
        self.cancel_status = 409
        self._numbers: Final = itertools.count(1)

    def path(self, file_id: str) -> Path:
        return self.folder / file_id

    def add_file(self, filename: str, content: bytes, purpose: str = "batch") -> str:
        number = next(self._numbers)
        file_id = f"file-{number:04}"
        self.path(file_id).write_bytes(content)
        size = len(content)
        self.files[file_id] = {
            "id": file_id,
            "object": "file",
            "bytes": size,
            "created_at": number,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
        }
        return file_id

    def lines(self, file_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path(file_id).read_text().splitlines()]

    def count(self, call: str) -> int:
        return sum(each.startswith(call) for each in self.calls)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        application = web.Application(middlewares=[self._answered], client_max_size=64 * 1024 * 1024)
        application.add_routes(
            [
                web.post("/v1/files", self._upload),
                web.get("/v1/files", self._list_files),
                web.get("/v1/files/{id}", self._file),
                web.get("/v1/files/{id}/content", self._content),
                web.post("/v1/batches", self._create_batch),
                web.get("/v1/batches", self._list_batches),
                web.get("/v1/batches/{id}", self._batch),
                web.post("/v1/batches/{id}/cancel", self._cancel),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        async with loopback.served(application) as url:
            self.url = f"{url}/v1"
            yield

    @web.middleware
    async def _answered(self, request: web.Request, handler: Any) -> web.StreamResponse:
        call = f"{request.method} {request.path}"
        self.calls.append(call)
        self.headers = request.headers
        fault = next((each for each in self.faults if call.startswith(each.where)), None)
        if fault is not None:
            self.faults.remove(fault)
        try:
            self._check_credentials(request)
            if fault is None or fault.is_done:
                answer: web.StreamResponse = await handler(request)
                if fault is None:
                    return answer
            if fault.is_cut:
                return await _cut(request)
            if fault.text:
                return web.Response(status=fault.status, text=fault.text, content_type=fault.content_type)
            kind = {"message": fault.message, "type": fault.code or "server_error", "param": None, "code": fault.code}
            return web.json_response({"error": kind}, status=fault.status, headers=fault.headers)
        except ApiError as error:
            return web.json_response(error.body, status=error.status)

    def _check_credentials(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "")
        if given != f"Bearer {KEY}":
            shown = f"{given[7:15]}***{given[-4:]}"
            raise ApiError(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
        if request.headers.get("OpenAI-Organization", ORGANIZATION) != ORGANIZATION:
            raise ApiError(401, "No such organization.", code="invalid_organization")

    async def _upload(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/form-data"):
            raise ApiError(400, "The request must be multipart/form-data.")
        fields: dict[str, str] = {}
        reader = await request.multipart()
        temporary, filename, size = self.folder / f"upload-{next(self._numbers)}", "", 0
        while (part := await reader.next()) is not None:
            assert isinstance(part, BodyPartReader)
            if part.name == "file":
                filename = part.filename or ""
                async with await anyio.open_file(temporary, "wb") as target:
                    while chunk := await part.read_chunk(64 * 1024):
                        size += len(chunk)
                        await target.write(chunk)
            else:
                fields[part.name or ""] = await part.text()
        if fields != {"purpose": "batch"} or not filename.endswith(".jsonl"):
            raise ApiError(400, f"Invalid fields {fields} or file '{filename}'.", param="purpose")
        if not size:
            raise ApiError(400, "File is empty.", param="file")
        await self.takes_uploads.wait()
        file_id = self.add_file(filename, b"")
        temporary.rename(self.path(file_id))
        self.files[file_id]["bytes"] = size
        return web.json_response(self.files[file_id])

    async def _list_files(self, request: web.Request) -> web.Response:
        purpose, order = request.query.get("purpose"), request.query.get("order", "desc")
        found = [file for file in self.files.values() if purpose in (None, file["purpose"])]
        if order == "desc":
            found.reverse()
        return web.json_response(_page(found, request, 10_000))

    async def _file(self, request: web.Request) -> web.Response:
        return web.json_response(self._found_file(request.match_info["id"]))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(self.path(self._found_file(request.match_info["id"])["id"]))

    def _found_file(self, file_id: str) -> dict[str, Any]:
        if file_id not in self.files:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return self.files[file_id]

    async def _create_batch(self, request: web.Request) -> web.Response:
        body = await _json(request)
        if unknown := set(body) - {
            "input_file_id",
            "endpoint",
            "completion_window",
            "metadata",
            "output_expires_after",
        }:
            raise ApiError(400, f"Unknown parameter: '{unknown.pop()}'.", code="unknown_parameter")
        if body.get("endpoint") not in ENDPOINTS:
            raise ApiError(400, f"Invalid value: '{body.get('endpoint')}'.", param="endpoint")
        if body.get("completion_window") != "24h":
            raise ApiError(400, f"Invalid value: '{body.get('completion_window')}'.", param="completion_window")
        metadata = body.get("metadata") or {}
        if len(metadata) > 16 or not all(isinstance(v, str) and len(v) <= 512 for v in metadata.values()):
            raise ApiError(400, "Invalid metadata.", param="metadata")
        if self.files.get(body.get("input_file_id", ""), {}).get("purpose") != "batch":
            raise ApiError(400, f"Invalid file: '{body.get('input_file_id')}'.", param="input_file_id")
        number = next(self._numbers)
        batch = {
            "id": f"batch_{number:04}",
            "object": "batch",
            "errors": None,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": number,
            **body,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return web.json_response(batch)

    async def _list_batches(self, request: web.Request) -> web.Response:
        return web.json_response(_page(list(self.batches.values())[::-1], request, 100))

    async def _batch(self, request: web.Request) -> web.Response:
        batch = self._found_batch(request)
        told = dict(batch)
        if not self.is_held:
            self._advance(batch)
        return web.json_response(told)

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._found_batch(request)
        if batch["status"] not in (*_COUNTED, "cancelling"):
            raise ApiError(self.cancel_status, f"Cannot cancel a batch with status '{batch['status']}'.")
        batch["status"] = "cancelling"
        return web.json_response(batch)

    def _found_batch(self, request: web.Request) -> dict[str, Any]:
        batch_id = request.match_info["id"]
        if batch_id not in self.batches:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return self.batches[batch_id]

    def _advance(self, batch: dict[str, Any]) -> None:
        match batch["status"]:
            case "validating":
                errors = list(_wrong_lines(self.path(batch["input_file_id"]), batch["endpoint"]))
                batch["status"] = "failed" if errors else "in_progress"
                batch["errors"] = {"object": "list", "data": errors} if errors else None
            case "in_progress":
                self._work_off(batch)
                batch["status"] = "finalizing"
            case status:
                batch["status"] = _NEXT.get(status, status)

    def _work_off(self, batch: dict[str, Any]) -> None:
        written: dict[str, list[str]] = {"output": [], "error": []}
        for line in self.lines(batch["input_file_id"]):
            number = next(self._numbers)
            try:
                status, body = 200, self._complete(line["body"])
            except ApiError as error:
                status, body = error.status, error.body
            response = {"status_code": status, "request_id": f"req_{number}", "body": body}
            answer = {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "response": response, "error": None}
            written["output" if status == 200 else "error"].append(json.dumps(answer))
        for kind, lines in written.items():
            if lines:
                content = "\n".join([*lines, ""]).encode()
                batch[f"{kind}_file_id"] = self.add_file(f"{batch['id']}_{kind}.jsonl", content, "batch_output")
        done, failed = len(written["output"]), len(written["error"])
        batch["request_counts"] = {"total": done + failed, "completed": done, "failed": failed}

    async def _chat(self, request: web.Request) -> web.Response:
        return web.json_response(self._complete(await _json(request)))

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        self.bodies.append(body)
        messages, model = body.get("messages"), body.get("model")
        if not messages or not all(isinstance(m, dict) and "role" in m and "content" in m for m in messages):
            raise ApiError(400, "Invalid 'messages'.", param="messages")
        if unknown := set(body) - {"model", "messages", "temperature", "max_completion_tokens", "n"}:
            raise ApiError(400, f"Unrecognized request argument supplied: {unknown.pop()}")
        known = {**MODELS, "thinks": {"content": ""}, "filtered": {"content": None}, "long": {"content": "And so"}}
        if model not in known:
            raise ApiError(404, f"The model '{model}' does not exist.", code="model_not_found")
        heard = " ".join(message["content"] for message in messages)
        said = {"role": "assistant", "content": f"echo: {heard}", "refusal": None, **known[model]}
        reason = _FINISH_REASONS.get(model, "length" if model == "long" else "stop")
        choices = (
            [] if model == "silent" else [{"index": 0, "finish_reason": reason, "message": said, "logprobs": None}]
        )
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        number = next(self._numbers)
        kind = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": number, "model": model}
        return {**kind, "choices": choices, "usage": usage}


def _wrong_lines(path: Path, endpoint: str) -> Iterator[dict[str, Any]]:
    """What validation finds, as ``errors.data`` of a batch has it."""
    seen: set[str] = set()
    for number, text in enumerate(path.read_text().splitlines(), 1):
        code = message = ""
        try:
            line = json.loads(text)
        except ValueError:
            code, message = "invalid_json_line", "This line is not parseable as valid JSON."
        else:
            if line.get("method") != "POST" or line.get("url") != endpoint:
                code, message = "invalid_url", "The method or URL does not match the batch."
            elif line.get("custom_id") in seen:
                code, message = "duplicate_custom_id", "The custom_id was used before."
            seen.add(line.get("custom_id"))
        if code:
            yield {"code": code, "message": message, "param": None, "line": number}


def _page(found: list[dict[str, Any]], request: web.Request, most: int) -> dict[str, Any]:
    limit = int(request.query.get("limit", most))
    if not 1 <= limit <= most:
        raise ApiError(400, f"Invalid 'limit': {limit}.", param="limit")
    ids = [each["id"] for each in found]
    after = request.query.get("after")
    begin = ids.index(after) + 1 if after in ids else 0
    data = found[begin : begin + limit]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": begin + limit < len(found)}


async def _json(request: web.Request) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise ApiError(400, "The body must be JSON.")
    body: dict[str, Any] = await request.json()
    return body


async def _cut(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
    await answer.prepare(request)
    await answer.write(b"x" * 100)
    assert request.transport is not None
    request.transport.abort()
    return answer
