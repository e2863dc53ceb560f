"""The bare loader: only the API calls that running tasks as pods takes, with no engine behind them.

It writes the least that an engine has to: a finalizer, the pod, the status when the pod runs and when it has
succeeded, and at the end labels without the finalizer. It reads no outputs, tells nobody, and lives through nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.peers.api import Api, Recording

READY = "ready"
FINALIZER = "flyte.org/bare-loader"


class Loader:
    def __init__(self, api: Api, told: Recording) -> None:
        self._api = api
        self._told = told
        self._phases: dict[str, str] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        """Of the writes for one task: the last word must not be overtaken."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            for path, take in ((self._told.tasks, self._take_task), (self._told.pods, self._take_pod)):
                listed = await self._api.call("GET", path)
                self._tasks.create_task(self._follow(path, listed["metadata"]["resourceVersion"], take))
            print(READY, flush=True)

    async def _follow(self, path: str, version: str, take: Any) -> None:
        async for type, item in self._api.follow(path, version):
            take(type, item)

    def _take_task(self, type: str, task: dict[str, Any]) -> None:
        if type == "ADDED":
            self._tasks.create_task(self._launch(task["metadata"]["name"], task["metadata"]["uid"]))

    async def _launch(self, name: str, uid: str) -> None:
        await self._api.call("PATCH", f"{self._told.tasks}/{name}", {"metadata": {"finalizers": [FINALIZER]}})
        await self._api.call("POST", self._told.pods, self._told.pod(name, uid))

    def _take_pod(self, _: str, pod: dict[str, Any]) -> None:
        name, phase = pod["metadata"]["name"].removesuffix("-0"), pod["status"]["phase"]
        if phase in ("Running", "Succeeded") and self._phases.get(name) != phase:
            self._phases[name] = phase
            self._tasks.create_task(self._write(f"{self._told.tasks}/{name}", phase))

    async def _write(self, task: str, phase: str) -> None:
        async with self._turns[task]:
            status = self._told.running if phase == "Running" else self._told.ended
            await self._api.call("PATCH", f"{task}/status", {"status": status})
            if phase == "Succeeded":
                last = {"labels": self._told.last_labels(), "finalizers": None}
                await self._api.call("PATCH", task, {"metadata": last})


async def main(file: Path) -> None:
    told = Recording(file)
    async with told.api() as api:
        await Loader(api, told).run()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
