from __future__ import annotations

import ctypes
import json
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import pods
from tests.unit._speedups import pod_strategies

RUNNING: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": "rk2v9x8c7b6n5m4-a0-0",
        "namespace": "flytesnacks-development",
        "uid": "8d5b7c1e-1111-2222-3333-444455556666",
        "creationTimestamp": "2026-03-14T14:59:26Z",
        "annotations": {"primary_container_name": "rk2v9x8c7b6n5m4-a0-0", "note": "x" * 400},
        "managedFields": [{"manager": "propfan", "fieldsV1": {"f:spec": {"f:containers": {}}}}],
    },
    "spec": {
        "hostname": "h",
        "containers": [
            {
                "name": "rk2v9x8c7b6n5m4-a0-0",
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "_F_E_VS", "value": "true"},
                    {"name": "_F_E_VS", "value": "0"},
                ],
            }
        ],
    },
    "status": {
        "phase": "Running",
        "startTime": "2026-03-14T14:59:26Z",
        "conditions": [
            {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": "2026-03-14T15:00:26Z"}
            for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [
            {
                "name": "rk2v9x8c7b6n5m4-a0-0",
                "containerID": "containerd://" + "0123456789abcdef" * 4,
                "imageID": "ghcr.io/flyteorg/flyte@sha256:" + "0123456789abcdef" * 4,
                "ready": True,
                "state": {"running": {"startedAt": "2026-03-14T15:00:26Z"}},
                "lastState": {},
            }
        ],
    },
}
RAW = json.dumps(RUNNING).encode()


def sizes(value: object, seen: set[int]) -> int:
    """Bytes of a decoded value with everything that belongs to it alone."""
    if id(value) in seen or value is None or isinstance(value, bool):
        return 0
    seen.add(id(value))
    parts: list[object] = []
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
    elif isinstance(value, tuple):
        parts = list(value)
    return sys.getsizeof(value) + sum(sizes(part, seen) for part in parts)


def test_typical_running_pod_takes_less_than_three_kilobytes() -> None:
    assert sizes(pods.decode(RAW), set()) < 3000


@pytest.mark.parametrize(
    "part",
    [pods.Annotations, pods.Metadata, pods.Waiting, pods.Running, pods.Terminated, pods.State, pods.ContainerStatus,
     pods.Condition, pods.Status],
)  # fmt: skip
def test_part_holds_its_fields_in_the_order_of_their_names(part: type[msgspec.Struct]) -> None:
    """What ``pod_layout.pxd`` relies on."""
    names = sorted(part.__struct_fields__)
    assert part.__basicsize__ == object.__basicsize__ + 8 * len(names)
    values = dict(zip(names, map(str, range(len(names))), strict=True))
    head = (ctypes.c_void_p * len(names)).from_address(id(made := part(**values)) + object.__basicsize__)
    assert [head[i] for i in range(len(names))] == [id(getattr(made, name)) for name in names]


def test_what_the_phase_depends_on_is_kept() -> None:
    pod = pods.decode(RAW)
    assert pod.metadata.annotations == pods.Annotations(primary_container_name="rk2v9x8c7b6n5m4-a0-0")
    assert pod.metadata.creation_timestamp == datetime(2026, 3, 14, 14, 59, 26, tzinfo=UTC)
    assert pod.spec is not None
    assert pod.spec.hostname == "h"
    assert pod.status is not None
    assert pod.status.container_statuses is not None
    assert pod.status.container_statuses[0].container_id.startswith("containerd://")


def test_environment_is_kept_only_on_request_and_only_the_first_debugger_setting() -> None:
    brief, full = pods.decode(RAW), pods.decode(RAW, environment=True)
    assert brief.spec is not None
    assert full.spec is not None
    assert brief.spec.containers is not None
    assert full.spec.containers is not None
    assert brief.spec.containers[0].env is None
    assert full.spec.containers[0].env == (pods.EnvVar("_F_E_VS", "true"),)


@pytest.mark.parametrize("environment", [False, True])
def test_event_holds_the_same_pod(environment: bool) -> None:  # noqa: FBT001
    line = b'{"type":"MODIFIED","object":' + RAW + b"}\n"
    assert pods.decode_event(line, environment=environment) == ("MODIFIED", pods.decode(RAW, environment=environment))


@pytest.mark.parametrize(
    ("part", "names"),
    [
        ("metadata", ["creationTimestamp", "deletionTimestamp", "annotations"]),
        ("spec", ["containers"]),
        ("status", ["conditions", "containerStatuses", "initContainerStatuses", "startTime"]),
    ],
)
def test_null_is_unset(part: str, names: list[str]) -> None:
    assert pods.decode(json.dumps({part: dict.fromkeys(names)}).encode()) == pods.decode(
        json.dumps({part: {}}).encode()
    )


def test_every_truncation_is_refused() -> None:
    for end in range(len(RAW)):
        with pytest.raises(msgspec.DecodeError):
            pods.decode(RAW[:end])


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (b"[]", "Expected `object`"),
        (b'{"unknown":' + b"[" * 100_000, "recursion"),
        (b'{"spec":{"unknown":' + b'{"":' * 5000 + b"1" + b"}" * 5002, "recursion"),
        (b'{"status":{"phase":1}}', r"\$.status.phase"),
        (b'{"status":{"containerStatuses":[{"state":{"terminated":{"exitCode":"1"}}}]}}', "exitCode"),
        (b'{"metadata":{"creationTimestamp":"yesterday"}}', "creationTimestamp"),
        (b'{"metadata":{"creationTimestamp":"2026-03-14T15:00:26"}}', "creationTimestamp"),
    ],
)
def test_what_is_no_pod_is_refused_by_its_path(raw: bytes, where: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=where):
        pods.decode(raw)


@given(pod=pod_strategies.pods, environment=st.booleans())
def test_encoded_pod_decodes_to_an_equal_one(pod: Any, environment: bool) -> None:  # noqa: FBT001
    decoded = pods.decode(json.dumps(pod).encode(), environment=environment)
    assert pods.decode(pods.encode(decoded), environment=environment) == decoded


@given(
    pod=pod_strategies.pods,
    cuts=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3),
    environment=st.booleans(),
)
def test_damaged_json_gives_a_pod_or_a_decode_error(
    pod: Any,
    cuts: list[tuple[int, int, bytes]],
    environment: bool,  # noqa: FBT001
) -> None:
    raw = json.dumps(pod).encode()
    for at, length, inserted in cuts:
        raw = raw[:at] + inserted + raw[at + length :]
    for decode in (pods.decode, pods.decode_event):
        try:
            decode(raw, environment=environment)
        except msgspec.DecodeError:
            continue


@given(st.binary())
def test_noise_is_never_more_than_a_decode_error(raw: bytes) -> None:
    try:
        pods.decode(raw)
    except msgspec.DecodeError:
        return
    assert raw.strip().startswith(b"{")
