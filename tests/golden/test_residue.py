from __future__ import annotations

from typing import Any

import pytest

from tests.golden.residue import without_residue

POD: dict[str, Any] = {
    "metadata": {},
    "spec": {
        "containers": [{"name": "a", "resources": {}, "env": [{"valueFrom": {"resourceFieldRef": {"divisor": "0"}}}]}]
    },
}
RECORDED: dict[str, Any] = {
    "kind": "PyTorchJob",
    "metadata": {},
    "spec": {"runPolicy": {}, "pytorchReplicaSpecs": {"Worker": {"template": POD}}},
    "status": {},
}


def test_what_go_writes_unasked_is_left_out() -> None:
    ours = {"spec": {"containers": [{"name": "a", "env": [{"valueFrom": {"resourceFieldRef": {}}}]}]}}
    built = {"kind": "PyTorchJob", "spec": {"pytorchReplicaSpecs": {"Worker": {"template": ours}}}}
    assert without_residue(RECORDED, built) == built


def test_what_both_write_is_compared() -> None:
    assert without_residue(RECORDED, RECORDED) == RECORDED


@pytest.mark.parametrize(
    "member", [{"status": {"conditions": []}}, {"spec": {"runPolicy": {"backoffLimit": 1}}}, {"other": {}}]
)
def test_anything_else_that_is_missing_is_a_difference(member: dict[str, Any]) -> None:
    recorded = {"kind": "PyTorchJob", **member}
    assert without_residue(recorded, {"kind": "PyTorchJob", "spec": {}}) == recorded


def test_other_kinds_are_compared_as_they_are() -> None:
    pod = {"kind": "Pod", **POD}
    assert without_residue(pod, {"kind": "Pod"}) == pod
