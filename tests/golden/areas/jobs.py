"""What the areas of operators' jobs share: a plugin under a case's configuration, and its answers.

An area ``KIND_build`` has ``run = jobs.builds(entry)``, an area ``KIND_phase`` has ``run = jobs.phases(entry)``; both take
``compare`` from here. Each build is repeated, so that what a plan says is compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import anyio
import msgspec
import structlog.testing

from propfan.pluginmachinery import object_metadata, objects
from propfan.pluginmachinery.cluster_jobs import jobs_of
from propfan.pluginmachinery.config import K8sConfig, StorageConfig, decode_config
from propfan.pluginmachinery.entries import (
    KubernetesPluginEntry,
    LoadedClusterPlugin,
    LoadedKubernetesPlugin,
    PluginEntry,
    SetupContext,
    load,
)
from propfan.pluginmachinery.errors import PropfanError
from propfan.pluginmachinery.kubernetes_plugin import Kind, KubernetesPlugin
from propfan.pluginmachinery.loglinks import LogsConfig
from tests.golden import comparison, inputs
from tests.golden.areas.podphase import phase_info_output
from tests.golden.comparison import Difference
from tests.golden.residue import without_residue

Run = Callable[[Mapping[str, Any]], dict[str, Any]]

REPEATED: Final = "a variable or port twice, which definitions refuse"

_SHARED_SECTIONS: Final = {"k8s", "logs", "storage"}

_BUILDS: Final = 3
"""The first build is plain, the second one makes a plan, the third one uses it."""


class Crds:
    """``CrdSchemas`` of a cluster in which a case says what there is."""

    def __init__(self, case: Mapping[str, Any]) -> None:
        self._has_pod_template = case.get("spark_crd_has_pod_template") is True

    async def has_field(self, kind: Kind, path: str) -> bool:
        return self._has_pod_template and (kind.kind, path) == ("SparkApplication", "spec.driver.template")


def setup(case: Mapping[str, Any]) -> SetupContext:
    """What plugins are loaded with under the case's configuration."""
    names = inputs.defaults()["config"].keys() - _SHARED_SECTIONS
    return SetupContext(
        k8s=decode_config(K8sConfig, inputs.section(case, "k8s"), "plugins.k8s"),
        logs=decode_config(LogsConfig, inputs.section(case, "logs"), "plugins.logs"),
        secrets=inputs.NoSecrets(),
        pod_templates=inputs.PodTemplates(case),
        sections={name: inputs.section(case, name) for name in names},
        environment=case.get("process_env") or {},
        storage=decode_config(StorageConfig, inputs.section(case, "storage"), "storage"),
        crds=Crds(case),
        logger_level=inputs.defaults()["logger_level"],
        workflow_id=case.get("context_workflow_id") or "",
    )


def plugin(entry: PluginEntry, case: Mapping[str, Any]) -> KubernetesPlugin:
    loaded = load(entry, setup(case))
    if isinstance(loaded, LoadedClusterPlugin):
        loaded = jobs_of(loaded)
    assert isinstance(loaded, LoadedKubernetesPlugin)
    return loaded.plugin


def builds(entry: KubernetesPluginEntry) -> Run:
    """The ``run`` of an area that builds objects."""

    async def answer(maker: KubernetesPlugin, case: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [await _build(entry, maker, case) for _ in range(_BUILDS)]

    def run(case: Mapping[str, Any]) -> dict[str, Any]:
        with structlog.testing.capture_logs():  # cases are full of what plugins warn of
            answers = anyio.run(answer, plugin(entry, case), case)
        assert all(answer == answers[0] for answer in answers), f"builds of one task differ: {answers}"
        return answers[0]

    return run


async def _build(entry: KubernetesPluginEntry, maker: KubernetesPlugin, case: Mapping[str, Any]) -> dict[str, Any]:
    try:
        built = await maker.build_resource(inputs.Context(case))
        rendered = objects.normalise(built, entry.watched, entry.id, "build_resource")
    except PropfanError as error:
        return {"resource": _error(error)}
    properties = maker.get_properties()
    stamped = object_metadata.stamp(rendered.metadata, inputs.metadata(case), setup(case).k8s, properties)
    return {
        "resource": msgspec.json.decode(rendered.to_json()),
        "created_metadata": msgspec.json.decode(msgspec.json.encode(stamped)),
    }


def phases(entry: KubernetesPluginEntry, *, has_process: bool = True) -> Run:
    """The ``run`` of an area that maps objects to phases.

    Args:
        has_process: Whether the containers of log contexts tell of a process, if only of an empty one.
    """

    def run(case: Mapping[str, Any]) -> dict[str, Any]:
        observer = plugin(entry, case)
        resource = inputs.observed(entry.watched, case["resource"])
        try:
            info = inputs.finish(observer.get_task_phase(inputs.Context(case), resource))
        except PropfanError as error:
            return _error(error)
        return {
            "phase_info": phase_info_output(info, has_process=has_process),
            "is_terminal": observer.is_terminal(resource),
            "completion_time": inputs.time_text(observer.get_completion_time(resource)),
        }

    return run


def _error(error: PropfanError) -> dict[str, Any]:
    return {"error": {**inputs.error_output(error), "message": str(error)}}


def compare(case_input: Mapping[str, Any], expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[Difference]:
    """As ``comparison.compare``, but for what Go's types write unasked, and the phase beside an error, which is none.

    The backend writes a container's variables and ports as often as they are named.
    """
    wanted = {name: value for name, value in expected.items() if name != "phase_info" or "error" not in expected}
    if "resource" not in wanted or "resource" not in actual:
        return comparison.compare(case_input, wanted, actual)
    recorded = wanted["resource"]
    once = _once(recorded) if "spec" in actual["resource"] else recorded
    wanted["resource"] = without_residue(once, actual["resource"])
    found = comparison.compare(case_input, wanted, actual)
    if once != recorded:
        found.append(Difference(".resource", "...", "...", REPEATED))
    return found


def _once(value: Any, path: str = "") -> Any:
    """The object with each variable of a container once, by its last value, each port and each secret for images."""
    if isinstance(value, Mapping):
        return {name: _once(inner, f"{path}.{name}") for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    if path.endswith(("ontainers[].env", "ontainers[].ports")):
        kept: dict[Any, Any] = {}
        for item in value:
            if path.endswith("env"):
                kept[item["name"]] = item
            else:
                kept.setdefault((item["containerPort"], item.get("protocol", "TCP")), item)
        return list(kept.values())
    if path.endswith(".imagePullSecrets"):
        return [item for index, item in enumerate(value) if item not in value[:index]]
    return [_once(item, f"{path}[]") for item in value]
