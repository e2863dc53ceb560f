"""Secrets of a task's connection come from the scope of its run."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import anyio
import pytest

from propfan.engine import Engine, EngineConfig
from propfan.engine.secret_managers.config import Place, SecretsSection
from propfan.engine.secret_managers.kubernetes import SECRET
from propfan.engine.secret_managers.scopes import SecretScope, object_name
from propfan.engine.task_state import Outcome
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import InMemoryStore
from propfan.plugins.connector import entry
from tests.unit.plugins.connector.rig import quick_looks, run, section, submit, template
from tests.unit.plugins.connector.service import PHASES, Service, serving

__all__ = ["quick_looks"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("quick_looks")]

WANTS = {"secrets": {"token": "VENDOR_TOKEN"}}


def engine_at(endpoint: str) -> Engine:
    registry = Registry()
    registry.register(entry)
    sections: Any = {"connector-service": section(endpoint)}
    config = EngineConfig(plugins=sections, secrets=SecretsSection(types=(Place.KUBERNETES,), namespace="vault"))
    return Engine(config, registry=registry, store=InMemoryStore())


async def keep(engine: Engine, value: str, project: str) -> None:
    identifier = SecretScope("flyte", project, "d" if project else "").id_of("VENDOR_TOKEN")
    body = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": object_name(identifier), "namespace": "vault"},
        "data": {identifier: b64encode(value.encode()).decode()},
    }
    await engine.cluster.create(SECRET, json.dumps(body).encode())


async def test_every_call_has_the_secret_of_the_run_and_not_of_what_the_template_names() -> None:
    service = Service()
    service.answer(phase=PHASES.RUNNING)
    made = template(custom=WANTS)
    made.id.project, made.id.domain = "other", "d"
    async with serving(service) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            await keep(engine, "for all", "")
            await keep(engine, "of the run", "mine")
            await keep(engine, "of others", "other")
            key = await submit(engine, made, project="mine", domain="d")
            await service.until(lambda: service.calls["GetTask"] > 0)
            await engine.abort(key)
            await engine.settled()
    sent = [request.connection for request in service.requests if hasattr(request, "connection")]
    assert service.calls["DeleteTask"] == 1
    assert {each.secrets["token"] for each in sent} == {"of the run"}


async def test_missing_one_is_told_with_its_scopes() -> None:
    async with serving(Service()) as server, engine_at(server.endpoint) as engine:
        with anyio.fail_after(20):
            status = await run(engine, template(custom=WANTS), project="mine", domain="d")
    assert status.outcome is Outcome.FAILED
    assert status.error is not None
    assert "of 'VENDOR_TOKEN' in namespace vault for flyte/mine/d, flyte/d, flyte" in status.error.message
