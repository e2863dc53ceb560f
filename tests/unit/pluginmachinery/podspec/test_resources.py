from __future__ import annotations

from flyteidl2.core import tasks_pb2
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import quantities
from propfan.pluginmachinery.podspec.resources import Platform, Requirements, merge, of_template

DEFAULTS = {"cpu": "1000m", "memory": "1024Mi"}


def resolved(
    requests: dict[str, str], limits: dict[str, str], ceiling: dict[str, str] | None = None, *, assign: bool
) -> dict[str, dict[str, str]]:
    platform = Platform(DEFAULTS, ceiling or {}, frozenset({"nvidia.com/gpu", "ephemeral-storage"}))
    return platform.resolve(Requirements(requests, limits), {}, assign=assign)


def test_missing_resources_are_assigned_from_the_other_side_or_the_platform() -> None:
    assert resolved({"cpu": "2"}, {}, assign=True) == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"cpu": "2", "memory": "1Gi"},
    }
    assert resolved({}, {"memory": "5Gi"}, assign=True)["requests"]["memory"] == "5Gi"


def test_ceilings_cut_requests_and_limits() -> None:
    assert resolved({"cpu": "2"}, {"cpu": "4"}, {"cpu": "1"}, assign=True) == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"cpu": "1", "memory": "1Gi"},
    }


def test_request_is_cut_to_its_limit_and_prints_like_it() -> None:
    assert resolved({"memory": "3000M"}, {"memory": "2Gi"}, assign=True)["requests"]["memory"] == "2Gi"


def test_without_assignment_cpu_and_memory_are_named_even_when_zero() -> None:
    assert resolved({}, {}, assign=False) == {
        "requests": {"cpu": "0", "memory": "0"},
        "limits": {"cpu": "0", "memory": "0"},
    }


def test_accelerators_are_assigned_only_when_asked_for_and_others_pass() -> None:
    found = resolved({"x/fpga": "1"}, {"nvidia.com/gpu": "2"}, assign=True)
    assert found["requests"]["nvidia.com/gpu"] == "2"
    assert found["requests"]["x/fpga"] == "1"
    assert "x/fpga" not in found["limits"]


def test_ephemeral_storage_has_no_default() -> None:
    assert "ephemeral-storage" not in resolved({}, {}, assign=True)["limits"]
    assert resolved({"ephemeral-storage": "1Gi"}, {}, assign=True)["limits"]["ephemeral-storage"] == "1Gi"


def test_templates_resources_have_kubernetes_names_and_no_zeros() -> None:
    message = {
        "requests": [
            {"name": "CPU", "value": "1"},
            {"name": "CPU", "value": "2"},
            {"name": "CPU", "value": "0"},
            {"name": "GPU", "value": "1"},
            {"name": "STORAGE", "value": "1"},
            {"name": "EPHEMERAL_STORAGE", "value": "1Gi"},
        ]
    }
    found = of_template(json_format.ParseDict(message, tasks_pb2.Resources()))
    assert found.requests == {"cpu": "2", "gpu": "1", "ephemeral-storage": "1Gi"}
    found.rename_gpu("amd.com/gpu")
    assert found.requests["amd.com/gpu"] == "1"


def test_claims_are_kept() -> None:
    container = {"resources": {"claims": [{"name": "gpu"}]}}
    resolved = Platform(DEFAULTS, {}, frozenset()).resolve(Requirements({}, {}), container, assign=True)
    assert resolved["claims"] == [{"name": "gpu"}]


amounts = st.dictionaries(
    st.sampled_from(["cpu", "memory", "nvidia.com/gpu", "ephemeral-storage", "x/fpga"]),
    st.sampled_from(["0", "1", "500m", "2", "1Gi", "1500M", "3e3"]),
)


@given(amounts, amounts, amounts, amounts, st.booleans())
def test_nothing_exceeds_its_ceiling_or_limit(
    requests: dict[str, str],
    limits: dict[str, str],
    ceiling: dict[str, str],
    over: dict[str, str],
    assign: bool,  # noqa: FBT001 - drawn
) -> None:
    before = merge(Requirements(requests, limits), Requirements(over, {}))
    found = resolved(before.requests, before.limits, ceiling, assign=assign)
    for name, limit in found["limits"].items():
        known = name != "x/fpga"
        if known and not quantities.is_zero(ceiling.get(name, "0")):
            assert quantities.compare(limit, ceiling[name]) <= 0
        if known and not quantities.is_zero(limit):
            assert quantities.compare(found["requests"][name], limit) <= 0
        assert quantities.canonical(limit) == limit
