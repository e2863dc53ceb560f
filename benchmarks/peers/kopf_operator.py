"""A minimal operator of kopf that runs tasks as pods. Run by ``kopf run`` in an environment that has only kopf.

It writes what ``bare_loader`` writes, but for the finalizer, which is kopf's own, and what kopf keeps of the objects
that it handles.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import kopf

from benchmarks.peers.api import Api, Recording

TOLD = Recording(Path(os.environ["CLUSTER_RECORDING"]))
OPEN = AsyncExitStack()


class Client:
    api: Api


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    Client.api = await OPEN.enter_async_context(TOLD.api())
    os.close(os.open(os.environ["CLUSTER_READY"], os.O_CREAT | os.O_WRONLY))


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    await OPEN.aclose()


@kopf.on.login()
def login(**keywords: Any) -> Any:
    return kopf.login_with_kubeconfig(**keywords)


@kopf.on.create("flyte.org", "v1", "taskactions")
async def launch(name: str, uid: str, **_: Any) -> None:
    await Client.api.call("POST", TOLD.pods, TOLD.pod(name, uid))


@kopf.on.event("v1", "pods", labels={"run": kopf.PRESENT})
async def follow(name: str, status: Any, memo: kopf.Memo, **_: Any) -> None:
    phase = status.get("phase")
    if phase not in ("Running", "Succeeded") or memo.get("phase") == phase:
        return
    memo.phase = phase
    task = f"{TOLD.tasks}/{name.removesuffix('-0')}"
    await Client.api.call("PATCH", f"{task}/status", {"status": TOLD.running if phase == "Running" else TOLD.ended})
    if phase == "Succeeded":
        await Client.api.call("PATCH", task, {"metadata": {"labels": TOLD.last_labels()}})
