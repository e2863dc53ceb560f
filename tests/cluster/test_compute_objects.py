"""A real API server takes every object that the compute plugins build, and drops nothing of it.

The kinds are those of the operators' own releases. Each object is sent as the engine sends it, with
``fieldValidation=Strict``, and is not stored. The API server stands alone: what operators' webhooks say of objects is
seen where the operators run.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import anyio
import msgspec
import pytest

from propfan.pluginmachinery.cluster_jobs import jobs_of
from propfan.pluginmachinery.entries import KubernetesPluginEntry, LoadedClusterPlugin, LoadedKubernetesPlugin, load
from propfan.pluginmachinery.objects import normalise
from propfan.pluginmachinery.testing import FakeTaskContext, setup_context
from propfan.plugins import clustered, dask, kubeflow, ray, spark
from tests.cluster import operators, programs
from tests.cluster.api import ApiError, Object
from tests.cluster.conftest import check_operators_are_wanted, skipping_when_unavailable
from tests.cluster.control_plane import ControlPlane, Settings
from tests.cluster.plugin_runs import K8S
from tests.golden import runner
from tests.golden.areas.jobs import Crds
from tests.peers.sdk_templates.recorded import Recorded, recorded

AREAS: Final = {
    "clustered_build": "jobset",
    "dask_build": "dask",
    "mpi_build": "kubeflow",
    "pytorch_build": "kubeflow",
    "ray_build": "ray",
    "spark_build": "spark",
    "tensorflow_build": "kubeflow",
}

LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
"""Recorded executions wear labels too that no object can, and that none has which comes from an API server."""

ENTRIES: Final[Mapping[str, tuple[str, KubernetesPluginEntry]]] = {
    "clustered-task": ("jobset", clustered.entry),
    "dask": ("dask", dask.entry),
    "mpi": ("kubeflow", kubeflow.mpi_entry),
    "pytorch": ("kubeflow", kubeflow.pytorch_entry),
    "ray": ("ray", ray.entry),
    "spark": ("spark", spark.entry),
    "tensorflow": ("kubeflow", kubeflow.tensorflow_entry),
}
"""By task type: the operator, and the plugin that makes its objects."""

NOT_EVEN_A_POD: Final = re.compile(r"\.(volumes|volumeMounts)\[\d+\]: Duplicate value")
"""Tasks whose own pods say what Kubernetes refuses in any Pod."""

NOT_IN_DASK: Final = re.compile(
    r"\.initContainers\[\d+\]\.restartPolicy|Probe\.httpGet\.port(: Invalid value| in body)"
)
"""The definition of DaskJobs knows no sidecars, and of the ports of probes only names."""

STRICT: Final = "?dryRun=All&fieldValidation=Strict"


class Judge:
    """Installs the kinds of operators when they are first needed, and says what becomes of objects."""

    def __init__(self, cluster: ControlPlane) -> None:
        self._cluster = cluster
        self._installed: set[str] = set()

    def install(self, operator: str) -> None:
        """Skips the test when the operator is not prepared."""
        if operator in self._installed:
            return
        with skipping_when_unavailable():
            check_operators_are_wanted()
            operators.install_crds(self._cluster, operator)
        self._installed.add(operator)

    def problem(self, item: Object) -> str:
        """Why it is refused, or what of it would be dropped; empty for neither."""
        api = self._cluster.api
        try:
            answer = api.request("POST", f"{api.collection(item, 'default')}{STRICT}", item)
        except ApiError as error:
            return error.message
        return dropped(item["spec"], answer["spec"], "spec") or dropped(
            item["metadata"], answer["metadata"], "metadata"
        )


def dropped(sent: Any, kept: Any, path: str) -> str:
    """The first place where what came back lacks or changes what was sent; it may have more."""
    if isinstance(sent, Mapping) and isinstance(kept, Mapping):
        missing = (f"{path}.{name} is gone" for name in sent if name not in kept)
        inner = (dropped(value, kept[name], f"{path}.{name}") for name, value in sent.items() if name in kept)
        return next((found for found in (*missing, *inner) if found), "")
    if isinstance(sent, list) and isinstance(kept, list) and len(sent) == len(kept):
        pairs = enumerate(zip(sent, kept, strict=True))
        return next((found for i, (a, b) in pairs if (found := dropped(a, b, f"{path}[{i}]"))), "")
    return "" if sent == kept else f"{path} is {kept!r} and was {sent!r}"


def unforeseen(problem: str, operator: str) -> str:
    """What of a refusal is not the task's own fault or the definition's."""
    parts = re.split(r", (?=\[?spec\.|\[?metadata\.|unknown field)", problem)
    known = [NOT_EVEN_A_POD, *([NOT_IN_DASK] if operator == "dask" else [])]
    return ", ".join(part for part in parts if part and not any(pattern.search(part) for pattern in known))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with skipping_when_unavailable():
        for module in ("etcd", "kubernetes"):
            programs.build(module)
    alone = Settings(nodes=0, has_scheduler=False, has_controllers=False)
    with ControlPlane(tmp_path_factory.mktemp("objects") / "cluster", alone) as cluster:
        yield Judge(cluster)


def built_in(area: str) -> Iterator[tuple[str, Object]]:
    """Ids of the recorded cases of tasks that can run, and their objects."""
    module = importlib.import_module(f"tests.golden.areas.{area}")
    for case in runner.read_cases(runner.DATA / f"{area}.jsonl.gz"):
        answer = module.run(case.input)
        if "created_metadata" in answer:
            made = answer["created_metadata"]
            labels = {name: value for name, value in made.get("labels", {}).items() if LABEL_VALUE.fullmatch(value)}
            metadata = {**made, "labels": labels, "namespace": "default"}
            yield (
                case.id,
                {**answer["resource"], "metadata": {name: value for name, value in metadata.items() if value}},
            )


@pytest.mark.parametrize(("area", "operator"), AREAS.items(), ids=AREAS)
def test_every_object_of_the_recorded_cases_is_taken_whole(judge: Judge, area: str, operator: str) -> None:
    judge.install(operator)
    refusals = ((case, judge.problem(item)) for case, item in built_in(area))
    problems = {case: found for case, problem in refusals if (found := unforeseen(problem, operator))}
    assert not problems, f"{len(problems)} of them: " + json.dumps(problems, indent=1)[:4000]


@pytest.mark.parametrize("task", recorded(*ENTRIES), ids=lambda task: task.name)
def test_every_object_of_an_sdks_task_is_taken_whole(judge: Judge, task: Recorded) -> None:
    operator, entry = ENTRIES[task.message.type]
    judge.install(operator)
    setup = msgspec.structs.replace(setup_context(k8s=K8S), crds=Crds({"spark_crd_has_pod_template": True}))
    loaded = load(entry, setup)
    if isinstance(loaded, LoadedClusterPlugin):
        loaded = jobs_of(loaded)
    assert isinstance(loaded, LoadedKubernetesPlugin)
    built = anyio.run(loaded.plugin.build_resource, FakeTaskContext(task.message))
    rendered = normalise(built, entry.watched, entry.id, "build_resource")
    metadata = msgspec.structs.replace(rendered.metadata, name="a-task", namespace="default")
    assert judge.problem(msgspec.json.decode(rendered.to_json(metadata))) == ""
