"""AWS on loopback: moto, and in front of it what moto leaves out of the published contracts.

The front follows the SageMaker API of 2017-07-24 and the Athena API of 2017-05-18, as boto3's own models and AWS's
reference describe them: names that are taken are refused, a request token starts one query, unknown queries are
told as such. It also counts calls and has faults on demand.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Final

import msgspec

from tests.unit.engine.s3_server import s3_server

_KEY_ID: Final = re.compile(r"Credential=([^/]+)/")

_NAMES: Final = {
    "Model": ("ModelName", "model"),
    "EndpointConfig": ("EndpointConfigName", "endpoint configuration"),
    "Endpoint": ("EndpointName", "endpoint"),
}
"""Of SageMaker's things: the argument that names them, and how messages do."""


class Call(msgspec.Struct, frozen=True):
    """One request, with the access key that signed it."""

    action: str
    arguments: Mapping[str, Any]
    access_key_id: str
    headers: Mapping[str, str]


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    headers: Mapping[str, str] = {}


def refusal(code: str, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> Answer:
    """An error, as the services with a JSON protocol tell it."""
    body = json.dumps({"__type": code, "message": message}).encode()
    return Answer(status, body, {"Content-Type": "application/x-amz-json-1.1", **(headers or {})})


class Amazon:
    """What stands before moto.

    Attributes:
        calls: All since the last reset.
        faults: By action; the first of each is the next answer.
        endpoint_states: ``EndpointStatus`` and ``FailureReason`` by name, in place of moto's.
        query_states: ``Status`` of queries, by a part of their statement, in place of moto's.
    """

    def __init__(self, moto: str) -> None:
        self._moto: Final = moto
        self._lock: Final = Lock()
        self.url = ""
        self.reset()

    def reset(self) -> None:
        self.calls: list[Call] = []
        self.faults: defaultdict[str, list[Answer]] = defaultdict(list)
        self.endpoint_states: dict[str, tuple[str, str]] = {}
        self.query_states: dict[str, Mapping[str, Any]] = {}
        self._names: set[tuple[str, str]] = set()
        self._tokens: dict[str, tuple[Mapping[str, Any], Answer]] = {}
        self._queries: dict[str, str] = {}
        self._forwarded("POST", "/moto-api/reset", {}, b"")

    def count(self, action: str) -> int:
        return sum(call.action == action for call in self.calls)

    def names(self, kind: str) -> set[str]:
        """Of all that is there of ``Model``, ``EndpointConfig`` or ``Endpoint``."""
        return {name for there, name in self._names if there == kind}

    def last(self, action: str) -> Call:
        return next(call for call in reversed(self.calls) if call.action == action)

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        action = headers.get("X-Amz-Target", "").partition(".")[2] or f"{method} {path}"
        try:
            arguments = json.loads(body or b"{}")
        except ValueError:
            arguments = {"body": body.decode("utf-8", "replace")}
        with self._lock:
            key = _KEY_ID.search(headers.get("Authorization", ""))
            self.calls.append(Call(action, arguments, key[1] if key else "", headers))
            if self.faults[action]:
                return self.faults[action].pop(0)
            refused = self._refused(action, arguments)
            if refused is not None:
                return refused
            answer = self._forwarded(method, path, headers, body)
            return self._noted(action, arguments, answer) if answer.status == 200 else answer

    def _refused(self, action: str, arguments: Mapping[str, Any]) -> Answer | None:
        """What moto would do and AWS does not."""
        if action.startswith("Create") and (kind := action.removeprefix("Create")) in _NAMES:
            field, word = _NAMES[kind]
            name = arguments[field]
            if (kind, name) in self._names:
                arn = f"arn:aws:sagemaker:us-east-1:123456789012:{kind.lower()}/{name}"
                return refusal("ValidationException", f'Cannot create already existing {word} "{arn}".')
        if action == "DeleteEndpoint" and self.endpoint_states.get(arguments["EndpointName"], ("",))[0] == "Creating":
            return refusal("ValidationException", 'Cannot update in-progress endpoint "arn:aws:sagemaker".')
        if action == "StartQueryExecution":
            token = arguments["ClientRequestToken"]
            if not 32 <= len(token) <= 128:
                return refusal("InvalidRequestException", "ClientRequestToken: length must be between 32 and 128")
            if token in self._tokens:
                earlier, answer = self._tokens[token]
                if earlier != arguments:
                    return refusal("InvalidRequestException", "Idempotent parameters do not match")
                return answer
        if action in ("GetQueryExecution", "StopQueryExecution"):
            query = arguments["QueryExecutionId"]
            if query not in self._queries:
                return refusal("InvalidRequestException", f"QueryExecution {query} was not found")
        return None

    def _noted(self, action: str, arguments: Mapping[str, Any], answer: Answer) -> Answer:
        """What later calls depend on; and states that moto does not have."""
        for kind, (field, _) in _NAMES.items():
            if action == f"Create{kind}":
                self._names.add((kind, arguments[field]))
            elif action == f"Delete{kind}":
                self._names.discard((kind, arguments[field]))
        match action:
            case "StartQueryExecution":
                self._tokens[arguments["ClientRequestToken"]] = (arguments, answer)
                self._queries[json.loads(answer.body)["QueryExecutionId"]] = arguments["QueryString"]
            case "DescribeEndpoint" if arguments["EndpointName"] in self.endpoint_states:
                status, reason = self.endpoint_states[arguments["EndpointName"]]
                more = {"EndpointStatus": status, **({"FailureReason": reason} if reason else {})}
                return Answer(200, json.dumps({**json.loads(answer.body), **more}).encode(), answer.headers)
            case "GetQueryExecution":
                statement = self._queries[arguments["QueryExecutionId"]]
                state = next((state for part, state in self.query_states.items() if part in statement), None)
                if state is not None:
                    query = json.loads(answer.body)["QueryExecution"]
                    body = json.dumps({"QueryExecution": {**query, "Status": state}}).encode()
                    return Answer(200, body, answer.headers)
        return answer

    def _forwarded(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        kept = {
            name: value
            for name, value in headers.items()
            if name.lower() not in ("host", "connection", "expect", "transfer-encoding")
        }
        connection = HTTPConnection(self._moto.removeprefix("http://"), timeout=30)
        with closing(connection):
            connection.request(method, path, body or None, kept)
            response = connection.getresponse()
            return Answer(response.status, response.read(), dict(response.headers))


@contextmanager
def amazon() -> Iterator[Amazon]:
    with s3_server() as moto:
        made = Amazon(moto)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # answers to Expect

            def _answer(self) -> None:
                is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
                body = b"".join(self._chunks()) if is_chunked else self._read(int(self.headers["Content-Length"] or 0))
                answer = made.answer(self.command, self.path, dict(self.headers), body)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.send_header("Connection", "close")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            def _read(self, size: int) -> bytes:
                content: bytes = self.rfile.read(size)
                return content

            def _chunks(self) -> Iterator[bytes]:
                while size := int(self.rfile.readline(), 16):
                    yield self._read(size)
                    self.rfile.readline()
                self.rfile.readline()

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = _answer  # noqa: N815 - names of the base

            def log_message(self, format: str, *args: Any) -> None:
                return

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            made.url = f"http://127.0.0.1:{server.server_port}"
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            try:
                yield made
            finally:
                server.shutdown()
                thread.join()
