"""A minimal operator of kopf that runs tasks as pods. Run by ``kopf run`` in an environment that has only kopf.

It writes what ``cluster_loader`` writes, and what kopf itself keeps of the objects that it handles.
"""

from __future__ import annotations

import json
import os
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import yaml

TOLD = json.loads(Path(os.environ["CLUSTER_RECORDING"]).read_bytes())
KUBECONFIG = yaml.safe_load(Path(TOLD["kubeconfig"]).read_text())
NAMESPACE = TOLD["namespace"]
TASKS = f"/apis/flyte.org/v1/namespaces/{NAMESPACE}/taskactions"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
LABELS = {**TOLD["labels"], "flyte.org/termination-status": "terminated"}


class Client:
    session: aiohttp.ClientSession


@kopf.on.startup()
async def start(settings: kopf.OperatorSettings, **_: Any) -> None:
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    cluster = KUBECONFIG["clusters"][0]["cluster"]
    Client.session = aiohttp.ClientSession(
        cluster["server"],
        headers={"Authorization": f"Bearer {KUBECONFIG['users'][0]['user']['token']}"},
        connector=aiohttp.TCPConnector(
            limit=64, ssl=ssl.create_default_context(cafile=cluster["certificate-authority"])
        ),
    )
    os.close(os.open(os.environ["CLUSTER_READY"], os.O_CREAT | os.O_WRONLY))


@kopf.on.cleanup()
async def stop(**_: Any) -> None:
    await Client.session.close()


@kopf.on.login()
def login(**keywords: Any) -> Any:
    return kopf.login_with_kubeconfig(**keywords)


async def call(method: str, path: str, body: Any) -> None:
    headers = MERGE_PATCH if method == "PATCH" else {}
    async with Client.session.request(method, path, json=body, headers=headers) as answer:
        answer.raise_for_status()
        await answer.read()


@kopf.on.create("flyte.org", "v1", "taskactions")
async def launch(name: str, uid: str, **_: Any) -> None:
    pod = json.loads(TOLD["pod"].replace("@RUN@", name.removesuffix("-a0")))
    owner = {"apiVersion": "flyte.org/v1", "kind": "TaskAction", "name": name, "uid": uid}
    pod["metadata"] |= {"namespace": NAMESPACE, "ownerReferences": [owner]}
    await call("POST", PODS, pod)


@kopf.on.event("v1", "pods", labels={"run": kopf.PRESENT})
async def follow(name: str, status: Any, memo: kopf.Memo, **_: Any) -> None:
    phase = status.get("phase")
    if phase not in ("Running", "Succeeded") or memo.get("phase") == phase:
        return
    memo.phase = phase
    task = f"{TASKS}/{name.removesuffix('-0')}"
    await call("PATCH", f"{task}/status", {"status": TOLD["running" if phase == "Running" else "ended"]})
    if phase == "Succeeded":
        await call("PATCH", task, {"metadata": {"labels": LABELS}})
