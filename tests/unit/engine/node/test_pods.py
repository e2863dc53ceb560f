"""A node sees the pods that are bound to it, and of all other kinds what there is."""

from __future__ import annotations

import json

import anyio
import pytest

from propfan.engine.cluster import POD
from propfan.engine.node.pods import NodePods
from propfan.engine.processes.environment import SECRET
from tests.unit.engine.kubernetes.scripted_server import answer, client

pytestmark = pytest.mark.anyio

EMPTY = answer(200, {"metadata": {"resourceVersion": "7"}, "items": []})


async def test_pods_are_asked_for_by_their_node_and_secrets_are_not() -> None:
    async with client(EMPTY) as it:
        pods = NodePods(it.cluster, "here")
        await pods.list(POD)
        await pods.list(SECRET, namespace="n")
        selectors = [asked.query.get("fieldSelector") for asked in it.server.asked]
    assert selectors == ["spec.nodeName=here", None]


async def test_pods_are_watched_by_their_node() -> None:
    line = json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}}).encode() + b"\n"
    async with client(answer(200, line)) as it:
        with anyio.fail_after(20):
            async with NodePods(it.cluster, "here").watch(POD, resource_version="7") as batches:
                async for batch in batches:
                    assert [event.object.metadata.resource_version for event in batch] == ["8"]
        assert it.server.asked[0].query["fieldSelector"] == "spec.nodeName=here"
