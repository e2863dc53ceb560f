"""The pods behind an operator's job, as far as its task's phase and logs depend on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from propfan.pluginmachinery.contexts import PluginContext
from propfan.pluginmachinery.phases import PodLogContext
from propfan.pluginmachinery.podphase import ObservedPod, PodPhases, decode_pod


async def list_pods(ctx: PluginContext) -> Sequence[ObservedPod]:
    """All pods of the task, in the order in which the cluster lists them.

    Raises:
        DecodeError: one of them is no pod.
        ApiError: they can not be read now.
    """
    return [decode_pod(raw, "a pod of the task") for raw in await ctx.kubernetes.list_pods()]


def phase_of(pod: ObservedPod) -> str:
    """``Pending``, ``Running`` ...; empty when the pod has no status."""
    return (pod.status.phase or "") if pod.status is not None else ""


def without_pending(pods: Iterable[ObservedPod]) -> Sequence[ObservedPod]:
    return [pod for pod in pods if phase_of(pod) != "Pending"]


def log_contexts(phases: PodPhases, pods: Iterable[ObservedPod]) -> tuple[PodLogContext, ...]:
    """Where the logs of pods that have started are."""
    return tuple(phases.pod_log_context(pod) for pod in pods)
