"""One task of a plugin on a cluster with its operator: created as the engine does it, then looked at by the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import anyio
import msgspec
from flyteidl2.core import tasks_pb2

from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig
from propfan.pluginmachinery.kubernetes_plugin import Kind, KubernetesPlugin, ObjectMeta, ObservedObject
from propfan.pluginmachinery.objects import normalise
from propfan.pluginmachinery.phases import Phase, PhaseInfo, PluginState
from propfan.pluginmachinery.testing import FakeTaskContext, task_metadata
from tests.cluster.api import ApiError, Object
from tests.cluster.control_plane import ControlPlane
from tests.cluster.pods import asked
from tests.cluster.replicas import until

K8S = K8sConfig(default_annotations={})


class PluginRun:
    """``verdicts`` are all that the plugin said, oldest first."""

    def __init__(
        self,
        cluster: ControlPlane,
        namespace: str,
        template: tasks_pb2.TaskTemplate,
        plugin: KubernetesPlugin,
        kind: Kind,
        name: str = "r1-a0-0",
    ) -> None:
        self.cluster, self.namespace, self.template = cluster, namespace, template
        self.plugin, self.kind, self.name = plugin, kind, name
        self.verdicts: list[PhaseInfo] = []

    def create(self, **wishes: str) -> Object:
        """Creates its object; ``wishes`` are what its pods do, see ``stages/pod.yaml``."""
        metadata = task_metadata(self.template, namespace=self.namespace, generated_name=self.name)
        self.metadata = msgspec.structs.replace(metadata, annotations=asked(**wishes))
        ctx = FakeTaskContext(self.template, metadata=self.metadata)
        built = normalise(anyio.run(self.plugin.build_resource, ctx), self.kind, "plugin", "build_resource")
        stamped = object_metadata.stamp(built.metadata, self.metadata, K8S, self.plugin.get_properties())
        whole = msgspec.json.decode(built.to_json(msgspec.structs.replace(stamped, owner_references=())))
        until(self._is_served, f"{self.kind} can be listed")
        return self.cluster.api.create(whole, namespace=self.namespace)

    def _is_served(self) -> bool:
        """A server that has a new kind asks those who list it to come again."""
        try:
            self.cluster.api.list(self.path.rpartition("/")[0])
        except ApiError as error:
            if error.status == HTTPStatus.TOO_MANY_REQUESTS:
                return False
            raise
        return True

    @property
    def path(self) -> str:
        kind = self.kind
        return f"/apis/{kind.api_version}/namespaces/{self.namespace}/{kind.plural}/{self.name}"

    def pods(self) -> Mapping[str, Object]:
        """Those that the engine would show to the plugin."""
        pods = self.cluster.api.list(f"/api/v1/namespaces/{self.namespace}/pods", labelSelector="run=r1,action=a0")
        return {pod["metadata"]["name"]: pod for pod in pods}

    def look(self, item: Object, *, after: timedelta = timedelta(0)) -> PhaseInfo:
        """What the plugin makes of the object as it is now, or would if nothing changed for some time."""
        resource = ObservedObject(self.kind, msgspec.convert(item["metadata"], ObjectMeta), msgspec.json.encode(item))
        pods = list(self.pods().values())
        last = self.verdicts[-1] if self.verdicts else None
        state = PluginState() if last is None else PluginState(last.phase, last.version, last.reason)
        now = datetime.now(UTC) + after
        ctx = FakeTaskContext(self.template, metadata=self.metadata, pods=pods, plugin_state=state, now=now)
        self.verdicts.append(anyio.run(self.plugin.get_task_phase, ctx, resource))
        return self.verdicts[-1]

    def until(self, phase: Phase, *, after: timedelta = timedelta(0)) -> PhaseInfo:
        self.cluster.api.await_object(
            self.path, lambda item: self.look(item, after=after).phase is phase, timeout_s=240
        )
        return self.verdicts[-1]

    @property
    def phases(self) -> list[Phase]:
        """In order, without repeats."""
        seen = [verdict.phase for verdict in self.verdicts]
        return [phase for index, phase in enumerate(seen) if seen[index - 1 : index] != [phase]]
