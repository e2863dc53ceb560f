"""Runs ``container``, ``python``, ``python-task`` (Flyte 1), ``raw-container`` and ``sidecar`` tasks, each as one Pod."""

from __future__ import annotations

import msgspec

from propfan.pluginmachinery.entries import KubernetesPluginEntry, SetupContext
from propfan.pluginmachinery.kubernetes_plugin import POD
from propfan.plugins.pod.plugin import PodPlugin

__all__ = ["PodConfig", "PodPlugin", "entry"]


class PodConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Section ``plugins.pod``.

    Attributes:
        charge_exit_codes: A pod that has failed for no other reason than a program's own exit code
            costs the task one of its attempts; else, as with the Go executor, the engine one of its retries.
    """

    charge_exit_codes: bool = True


def _load(setup: SetupContext) -> PodPlugin:
    return PodPlugin(
        setup.k8s,
        setup.logs,
        setup.pod_templates,
        storage=setup.storage,
        process_env=setup.environment,
        charges_exit_codes=setup.section("pod", PodConfig).charge_exit_codes,
    )


entry = KubernetesPluginEntry(
    id="pod",
    task_types=("container", "python", "python-task", "raw-container", "sidecar"),
    watched=POD,
    load=_load,
)
