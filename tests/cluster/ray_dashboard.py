"""A stand-in for the dashboards of Ray clusters, whose head pods run nothing here.

The Ray operator reaches every dashboard by ``http://<head service>.<namespace>.svc.cluster.local:8265``; with
HTTP_PROXY in its environment all these requests come to one server. It answers as the job API of Ray does
(https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html): a job runs when it is first asked
for, and has ended the next time, as the annotations of its RayJob want it: ``kwok.propfan.test/outcome``
(``succeeded``, ``failed``, ``running``) and ``kwok.propfan.test/message``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from tests.cluster.api import Api

JOBS = "/api/jobs/"
ENDS = {"succeeded": "SUCCEEDED", "failed": "FAILED", "running": "RUNNING"}


@contextmanager
def dashboards(api: Api) -> Iterator[str]:
    """The URL of the proxy behind which every dashboard is."""
    seen: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == JOBS:
                return self.answer(HTTPStatus.OK, [])
            namespace = (parts.hostname or "").split(".")[1]
            job_id = parts.path.removeprefix(JOBS)
            info = job_info(api, namespace, job_id, is_first=job_id not in seen)
            seen.add(job_id)
            return self.answer(HTTPStatus.OK if info else HTTPStatus.NOT_FOUND, info)

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            is_stop = self.path.endswith("/stop")
            self.answer(HTTPStatus.OK, {"stopped": True} if is_stop else {"job_id": request.get("submission_id", "")})

        def do_DELETE(self) -> None:
            self.answer(HTTPStatus.OK, {})

        def answer(self, status: HTTPStatus, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """The operator logs what it asks."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def job_info(api: Api, namespace: str, job_id: str, *, is_first: bool) -> Mapping[str, Any] | None:
    """What Ray tells of a job; nothing when no RayJob of the namespace has the id."""
    for job in api.list(f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs"):
        if job.get("status", {}).get("jobId") == job_id:
            wishes = job["metadata"].get("annotations", {})
            end = ENDS[wishes.get("kwok.propfan.test/outcome", "succeeded")]
            message = wishes.get("kwok.propfan.test/message", "")
            return {"submission_id": job_id, "status": "RUNNING" if is_first else end, "message": message}
    return None
