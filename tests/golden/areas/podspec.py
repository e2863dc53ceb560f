"""From a task template to a pod: the shared builder, the pod plugin, and the stamped metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from propfan.pluginmachinery import object_metadata
from propfan.pluginmachinery.config import K8sConfig, StorageConfig, decode_config
from propfan.pluginmachinery.errors import PropfanError
from propfan.pluginmachinery.kubernetes_plugin import Properties
from propfan.pluginmachinery.podspec.build import PodSpecBuilder, read_task
from propfan.plugins.pod import build
from tests.golden import inputs


def run(case: Mapping[str, Any]) -> dict[str, Any]:
    outputs = {"to_pod_spec": _answer(lambda: _to_pod_spec(case)), "resource": _answer(lambda: _resource(case))}
    if "error" not in outputs["resource"]:
        outputs["created_metadata"] = _created_metadata(case)
    return outputs


def builder(case: Mapping[str, Any]) -> PodSpecBuilder:
    """The conversion under the case's configuration."""
    return PodSpecBuilder(
        decode_config(K8sConfig, inputs.section(case, "k8s"), "plugins.k8s"),
        inputs.PodTemplates(case),
        storage=decode_config(StorageConfig, inputs.section(case, "storage"), "storage"),
        logger_level=inputs.defaults()["logger_level"],
        process_env=case.get("process_env") or {},
        workflow_id=case.get("context_workflow_id") or "",
    )


def _answer(call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return call()
    except PropfanError as error:
        return {"error": {**inputs.error_output(error), "message": str(error)}}


def _to_pod_spec(case: Mapping[str, Any]) -> dict[str, Any]:
    pod = builder(case).to_pod_spec(inputs.finish(read_task(inputs.Context(case))))
    return {
        "pod_spec": pod.spec,
        "object_meta": pod.metadata,
        "primary_container_name": pod.primary_container_name,
    }


def _resource(case: Mapping[str, Any]) -> dict[str, Any]:
    pod = build.build_pod(builder(case), inputs.finish(read_task(inputs.Context(case))))
    resource: dict[str, Any] = msgspec.json.decode(build.render(pod).to_json())
    return resource


def _created_metadata(case: Mapping[str, Any]) -> dict[str, Any]:
    conversion = builder(case)
    rendered = build.render(build.build_pod(conversion, inputs.finish(read_task(inputs.Context(case)))))
    stamped = object_metadata.stamp(rendered.metadata, inputs.metadata(case), conversion.k8s, Properties())
    created: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(stamped))
    return created
