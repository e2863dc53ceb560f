"""Spark tasks, and a plugin that runs them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.kubernetes_plugin import Kind, RenderedObject
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context, task_template
from propfan.plugins.spark import SparkPlugin

FILE = "local:///opt/app.py"


def spark_task(custom: Mapping[str, Any] | None = None, **members: Any) -> tasks_pb2.TaskTemplate:
    """A Spark task; the application's file is named unless ``custom`` says what to run."""
    own = {"mainApplicationFile": FILE} if custom is None else custom
    defaults = {"image": "spark:1", "args": ["a0", "--inputs", "{{.input}}"]}
    return task_template("spark", custom=own, **{**defaults, **members})


class Crds:
    """A cluster whose SparkApplications have what they are asked for, or not."""

    def __init__(self, *, has_template: bool = True) -> None:
        self.has_template = has_template
        self.error: Exception | None = None
        self.asked: list[str] = []

    async def has_field(self, kind: Kind, path: str) -> bool:
        self.asked.append(f"{kind} {path}")
        if self.error is not None:
            raise self.error
        return self.has_template


def spark_plugin(*, crds: Crds | None = None, k8s: K8sConfig | None = None, **section: Any) -> SparkPlugin:
    """The plugin with its section's keys in snake case; without ``crds`` the operator is an old one."""
    keys = {key.replace("_", "-"): value for key, value in section.items()}
    setup = setup_context(k8s=k8s, sections={"spark": keys})
    return SparkPlugin(msgspec.structs.replace(setup, crds=crds or Crds(has_template=False)))


async def spec_of(plugin: SparkPlugin, ctx: FakeTaskContext) -> dict[str, Any]:
    spec: dict[str, Any] = document(await plugin.build_resource(ctx))["spec"]
    return spec


def document(rendered: RenderedObject) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(rendered.to_json())
    return decoded
