"""Pods of every shape that the rules distinguish, as JSON values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

NOW: Final = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)

_names = st.sampled_from(["task", "side", "init", ""])
_reasons = st.sampled_from(
    [
        "", "Completed", "Error", "OOMKilled", "CreateContainerError", "CreateContainerConfigError", "ImagePullBackOff",
        "InvalidImageName", "ErrImagePull", "ContainerCreating", "PodInitializing", "CrashLoopBackOff", "Unschedulable",
        "ContainersNotReady", "PodCompleted", "Shutdown", "Evicted",
    ]
)  # fmt: skip
_texts = st.sampled_from(["", "no room", "got 429 Too Many Requests", "{{ .podUID }}"])


def time_text(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


times = st.one_of(
    st.none(),
    st.integers(-400, 60).map(lambda s: time_text(NOW + timedelta(seconds=s))),
    st.just("0001-01-01T00:00:00Z"),
)


def _object(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=optional)


_terminated = _object(
    exitCode=st.sampled_from([0, 1, 137, 247]), reason=_reasons, message=_texts, startedAt=times, finishedAt=times
)
_states = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"waiting": _object(reason=_reasons, message=_texts)}),
    st.fixed_dictionaries({"running": _object(startedAt=times)}),
    st.fixed_dictionaries({"terminated": _terminated}),
)
_statuses = st.lists(
    _object(
        name=_names,
        ready=st.booleans(),
        state=_states,
        lastState=_states,
        containerID=st.sampled_from(["", "containerd://1f", "a://b://c", "x"]),
    ),
    max_size=3,
)
_conditions = st.lists(
    _object(
        type=st.sampled_from(["PodScheduled", "Unschedulable", "Ready", "Initialized"]),
        status=st.sampled_from(["True", "False", "Unknown"]),
        reason=_reasons,
        message=_texts,
        lastTransitionTime=times,
    ),
    max_size=3,
)
_environments = st.lists(
    _object(name=st.sampled_from(["_F_E_VS", "A"]), value=st.sampled_from(["true", "0", "1"])), max_size=3
)
pods = _object(
    metadata=_object(
        name=st.sampled_from(["task", "pod-1"]),
        namespace=st.just("ns"),
        uid=st.just("u-1"),
        creationTimestamp=times,
        deletionTimestamp=times,
        annotations=_object(
            **{"primary_container_name": _names, "kubectl.kubernetes.io/default-container": _names, "other": _names}
        ),
    ),
    spec=_object(
        hostname=st.sampled_from(["", "host"]),
        containers=st.lists(_object(name=_names, env=_environments, image=st.just("i")), max_size=3),
    ),
    status=_object(
        phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown", "Unschedulable", ""]),
        reason=_reasons,
        message=_texts,
        startTime=times,
        conditions=_conditions,
        containerStatuses=_statuses,
        initContainerStatuses=_statuses,
        ephemeralContainerStatuses=_statuses,
    ),
)

_unready = st.fixed_dictionaries(
    {"type": st.just("Ready"), "status": st.just("False")},
    optional={"reason": _reasons, "message": _texts, "lastTransitionTime": times},
)
_waiting = st.fixed_dictionaries(
    {"state": st.fixed_dictionaries({"waiting": _object(reason=_reasons, message=_texts)})}
)
pending_pods = st.fixed_dictionaries(
    {
        "status": st.fixed_dictionaries(
            {
                "phase": st.just("Pending"),
                "conditions": st.tuples(_conditions, st.lists(_unready, min_size=1, max_size=1)).map(
                    lambda c: c[0] + c[1]
                ),
                "containerStatuses": st.lists(_waiting, min_size=1, max_size=2),
            },
            optional={"initContainerStatuses": _statuses},
        )
    }
)
