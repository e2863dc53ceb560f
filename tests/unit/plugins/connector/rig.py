"""A whole engine with the connector plugin and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flyteidl2.core import tasks_pb2, types_pb2

from propfan.engine import Engine, EngineConfig, Submission
from propfan.engine.reconcile.live_task import TaskKey
from propfan.engine.submission import TaskStatus
from propfan.engine.web import jobs
from propfan.pluginmachinery.registry import Registry
from propfan.pluginmachinery.testing import InMemoryStore, task_template
from propfan.plugins.connector import entry

INTEGER = types_pb2.INTEGER


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Young jobs are looked at after hundredths of a second."""
    monkeypatch.setattr(jobs, "_FIRST_LOOK_S", 0.02)


def template(task_type: str = "job", *, retries: int = 0, **values: Any) -> tasks_pb2.TaskTemplate:
    made = task_template(task_type, **values)
    made.metadata.retries.retries = retries
    return made


def section(endpoint: str, **more: Any) -> dict[str, Any]:
    """Fast enough for tests, and every job is let in."""
    web = {
        "resourceQuotas": {"default": 100_000},
        "readRateLimiter": {"qps": 10_000, "burst": 10_000},
        "writeRateLimiter": {"qps": 10_000, "burst": 10_000},
        "caching": {"resyncInterval": "5s", "maxSystemFailures": 2},
    }
    web |= more.pop("webApi", {})
    deployment = {"endpoint": endpoint, "insecure": True, "defaultTimeout": "5s", **more.pop("deployment", {})}
    return {
        "defaultConnector": deployment,
        "webApi": web,
        "pollInterval": "1s",
        "resourceConstraints": {
            "ProjectScopeResourceConstraint": {"Value": 0},
            "NamespaceScopeResourceConstraint": {"Value": 0},
        },
        **more,
    }


def engine_at(endpoint: str, folder: Path | None = None, *, store: InMemoryStore | None = None, **more: Any) -> Engine:
    registry = Registry()
    registry.register(entry)
    settings: Mapping[str, Any] = {"connector-service": section(endpoint, **more)}
    config = EngineConfig(data_dir=folder, plugins=settings, plugin_timeout_s=10.0, status_linger_s=0.0)
    return Engine(config, registry=registry, store=store)


async def submit(engine: Engine, made: tasks_pb2.TaskTemplate | None = None, **values: Any) -> TaskKey:
    serialised = (made or template()).SerializeToString()
    return await engine.submit(Submission(template=serialised, **values))


async def run(engine: Engine, made: tasks_pb2.TaskTemplate | None = None, **values: Any) -> TaskStatus:
    return await engine.wait(await submit(engine, made, **values))
