"""What a connector is made with and asked, in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from datetime import datetime
from ipaddress import ip_address
from typing import Any, NoReturn
from urllib.parse import urlsplit

import msgspec
from flyteidl2.connector import connector_pb2
from flyteidl2.core import identifier_pb2, literals_pb2, tasks_pb2
from flyteidl2.task import common_pb2

from propfan.pluginmachinery.connector import (
    Connection,
    ConnectorSetup,
    HostRule,
    HttpClient,
    HttpResponse,
    TaskRequest,
)
from propfan.pluginmachinery.contexts import DataStore
from propfan.pluginmachinery.errors import PermanentError, TransientError
from propfan.pluginmachinery.testing.builders import NOW
from propfan.pluginmachinery.testing.fakes import FakeSecrets, InMemoryStore


class HttpCall(msgspec.Struct, frozen=True):
    """A request that was made of ``FakeHttp``; ``body`` is what would have been sent."""

    method: str
    url: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    timeout_s: float | None


def http_answer(
    status: int = 200, json: Any = None, *, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> HttpResponse:
    """An answer with a JSON body, or with ``body`` when there is no ``json``."""
    return HttpResponse(status, dict(headers or {}), body if json is None else msgspec.json.encode(json))


@dataclasses.dataclass
class FakeHttp:
    """An ``HttpClient`` that asks ``handler`` for each answer and remembers the calls."""

    handler: Callable[[HttpCall], HttpResponse]
    calls: list[HttpCall] = dataclasses.field(default_factory=list)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        json: Any = None,
        timeout_s: float | None = None,
    ) -> HttpResponse:
        content = (body or b"") if json is None else msgspec.json.encode(json)
        call = HttpCall(method, url, dict(params or {}), dict(headers or {}), content, timeout_s)
        self.calls.append(call)
        answer = self.handler(call)
        return msgspec.structs.replace(answer, url=answer.url or url)

    def restricted(self, rule: HostRule) -> HttpClient:
        """Nothing is looked up here, so the rule sees names and the addresses that URLs are written with."""

        def ask(call: HttpCall) -> HttpResponse:
            host = (urlsplit(call.url).hostname or "").lower()
            try:
                problem = rule(host, ip_address(host))
            except ValueError:
                problem = rule(host, None)
            if problem:
                raise PermanentError("", f"{call.method} {call.url}: {problem}")
            return self.handler(call)

        return FakeHttp(ask, self.calls)


class FailingHttp:
    """An ``HttpClient`` without a network."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        json: Any = None,
        timeout_s: float | None = None,
    ) -> NoReturn:
        raise TransientError("", f"{method} {url}: no network")

    def restricted(self, rule: HostRule) -> HttpClient:
        return self


def connector_setup(
    *,
    secrets: Mapping[str, str] | None = None,
    http: HttpClient | None = None,
    store: DataStore | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: NOW,
) -> ConnectorSetup:
    """What a connector is made with where nothing is configured but the given; there is no network without ``http``."""
    return ConnectorSetup(
        secrets=FakeSecrets(secrets or {}),
        http=http or FailingHttp(),
        store=store or InMemoryStore(),
        now=now,
        sections=sections or {},
        environment=environment or {},
    )


def connector_task(
    template: tasks_pb2.TaskTemplate,
    inputs: literals_pb2.LiteralMap | None = None,
    *,
    run: str = "r1",
    attempt: int = 0,
    secrets: Mapping[str, str] | None = None,
    configs: Mapping[str, str] | None = None,
    output_prefix: str = "memory:///r1/a0/1",
) -> TaskRequest:
    """An attempt of action ``a0`` of a run, counted from 0."""
    run_id = identifier_pb2.WorkflowExecutionIdentifier(project="project", domain="domain", name=run)
    metadata = connector_pb2.TaskExecutionMetadata(
        task_execution_id=identifier_pb2.TaskExecutionIdentifier(
            task_id=template.id,
            node_execution_id=identifier_pb2.NodeExecutionIdentifier(node_id="a0", execution_id=run_id),
            retry_attempt=attempt,
        ),
        namespace="project-domain",
    )
    literals = (inputs or literals_pb2.LiteralMap()).literals
    named = [common_pb2.NamedLiteral(name=name, value=literals[name]) for name in sorted(literals)]
    return TaskRequest(
        template=template,
        literals=common_pb2.Inputs(literals=named),
        output_prefix=output_prefix,
        metadata=metadata,
        connection=Connection(dict(secrets or {}), dict(configs or {})),
    )
