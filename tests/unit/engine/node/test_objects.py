"""What a node is called, how an earlier one is corrected, and whose its Lease is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from propfan.engine.cluster import Kind, ObjectMeta, ObservedObject
from propfan.engine.daemon.leases import LEASE
from propfan.engine.node import objects
from propfan.engine.node.config import NodeConfig
from propfan.engine.node.objects import NODE, Machine
from propfan.pluginmachinery.errors import DecodeError

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
MACHINE = Machine("host", "x86_64", "6.1", "boot", "machine", "1.0")
CONFIG = NodeConfig(name="n", labels={"disk": "ssd"})
OTHERS = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2030-01-31T00:00:00Z"}


def seen(kind: Kind, raw: Mapping[str, Any] | bytes) -> ObservedObject:
    text = raw if isinstance(raw, bytes) else msgspec.json.encode(raw)
    metadata = msgspec.json.decode(text)["metadata"]
    meta = ObjectMeta(
        name=metadata["name"], labels=metadata.get("labels", {}), annotations=metadata.get("annotations", {})
    )
    return ObservedObject(kind, meta, text)


def node(config: NodeConfig = CONFIG, **spec: Any) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.json.decode(objects.new_node(config, MACHINE))
    made["spec"] |= spec
    return made


def test_a_node_that_is_as_it_shall_be_costs_no_write() -> None:
    assert objects.correction(CONFIG, MACHINE, seen(NODE, node())) == {}


def test_the_taint_comes_and_goes_and_those_of_others_stay() -> None:
    free = NodeConfig(name="n", labels={"disk": "ssd"}, is_tainted=False)
    for present, wanted, keys in (
        (node(free, taints=[OTHERS]), CONFIG, [OTHERS["key"], "propfan.dev/process"]),
        (node(CONFIG, taints=[OTHERS, {"key": "propfan.dev/process", "effect": "NoSchedule"}]), free, [OTHERS["key"]]),
    ):
        patch = msgspec.json.decode(msgspec.json.encode(objects.correction(wanted, MACHINE, seen(NODE, present))))
        assert [taint["key"] for taint in patch["spec"]["taints"]] == keys
        assert patch["spec"]["taints"][0] == OTHERS


def test_only_a_cordon_of_its_own_is_undone() -> None:
    cordoned = node(unschedulable=True)
    assert objects.correction(CONFIG, MACHINE, seen(NODE, cordoned)) == {}
    cordoned["metadata"]["annotations"] = objects.cordon()["metadata"]["annotations"]
    patch = objects.correction(CONFIG, MACHINE, seen(NODE, cordoned))
    assert patch["spec"] == {"unschedulable": None}
    assert patch["metadata"]["annotations"] == {objects.CORDONED_ANNOTATION: None}


def test_new_labels_are_added_and_those_of_others_stay() -> None:
    present = node()
    present["metadata"]["labels"] = {**present["metadata"]["labels"], "disk": "hdd", "theirs": "x"}
    assert objects.correction(CONFIG, MACHINE, seen(NODE, present)) == {"metadata": {"labels": {"disk": "ssd"}}}


def test_a_kubelets_node_is_not_ours() -> None:
    assert objects.is_ours(seen(NODE, node()))
    assert not objects.is_ours(seen(NODE, {"metadata": {"name": "n", "labels": {"kubernetes.io/os": "linux"}}}))


def test_a_node_that_can_not_be_read_is_refused() -> None:
    with pytest.raises(DecodeError):
        objects.correction(CONFIG, MACHINE, seen(NODE, {"metadata": {"name": "n"}, "spec": {"taints": 1}}))


@pytest.mark.parametrize(("age_s", "holder"), [(0.0, "me"), (39.0, "me"), (40.0, ""), (4000.0, "")])
def test_a_lease_has_a_holder_for_as_long_as_it_is_renewed(age_s: float, holder: str) -> None:
    lease = seen(LEASE, objects.new_lease(CONFIG, "me", "uid", NOW))
    assert objects.holder_of(lease, NOW + timedelta(seconds=age_s)) == holder


@pytest.mark.parametrize("spec", [{}, {"holderIdentity": "x"}, {"renewTime": "yesterday", "holderIdentity": "x"}])
def test_a_lease_that_says_nothing_has_no_holder(spec: dict[str, str]) -> None:
    assert objects.holder_of(seen(LEASE, {"metadata": {"name": "n"}, "spec": spec}), NOW) == ""


@pytest.mark.parametrize(
    ("resource", "nanos", "text"),
    [
        ("cpu", 2 * 10**9, "2"),
        ("cpu", 1_500_000_000, "1500m"),
        ("memory", 3 * 10**9, "3"),
        ("pods", 110 * 10**9, "110"),
    ],
)
def test_quantities_are_written_as_kubernetes_writes_them(resource: str, nanos: int, text: str) -> None:
    assert objects.quantity(resource, nanos) == text
