"""The API server for contenders that are not propfan: plain asyncio, aiohttp and json, and what they have to write."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

CALLS_AT_ONCE = 64
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


class Recording:
    """What an engine wrote for one task, to be written again for tasks of other names.

    Attributes:
        running, ended: The two values of the task's status.
    """

    def __init__(self, file: Path) -> None:
        self._told = json.loads(file.read_bytes())
        self.running: Mapping[str, Any] = self._told["running"]
        self.ended: Mapping[str, Any] = self._told["ended"]
        self._kubeconfig = yaml.safe_load(Path(self._told["kubeconfig"]).read_text())
        namespace = self._told["namespace"]
        self.tasks = f"/apis/flyte.org/v1/namespaces/{namespace}/taskactions"
        self.pods = f"/api/v1/namespaces/{namespace}/pods"

    def pod(self, task: str, uid: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(self._told["pod"].replace("@RUN@", task.removesuffix("-a0")))
        owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": task, "uid": uid}
        made["metadata"] |= {"namespace": self._told["namespace"], "ownerReferences": [owner]}
        return made

    def last_labels(self) -> dict[str, str]:
        """Of a task that is over."""
        return {**self._told["labels"], "flyte.org/termination-status": "terminated"}

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        cluster = self._kubeconfig["clusters"][0]["cluster"]
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        async with aiohttp.ClientSession(
            cluster["server"],
            headers={"Authorization": f"Bearer {self._kubeconfig['users'][0]['user']['token']}"},
            connector=aiohttp.TCPConnector(limit=CALLS_AT_ONCE, ssl=tls),
        ) as session:
            yield Api(session)


class Api:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = MERGE_PATCH if method == "PATCH" else {}
        async with self._session.request(method, path, json=body, headers=headers) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def follow(self, path: str, version: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Type and object of each event after ``version``. The server ends a stream that is read too slowly."""
        no_limit = aiohttp.ClientTimeout(total=None)
        while True:
            query = {"watch": "true", "resourceVersion": version}
            async with self._session.get(path, params=query, timeout=no_limit, read_bufsize=2**22) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    version = event["object"]["metadata"]["resourceVersion"]
                    yield event["type"], event["object"]
