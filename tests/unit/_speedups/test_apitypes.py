from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from propfan._speedups import apitypes, pure_twin
from propfan.pluginmachinery.podspec import schema

PURE = pure_twin("apitypes")
TYPES = {"pure": PURE.compile_types(schema.TABLE), "in use": schema.TYPES}
TWINS = pytest.mark.parametrize(
    ("twin", "types"), [(PURE, TYPES["pure"]), (apitypes, TYPES["in use"])], ids=["pure", "in use"]
)
NAMES = ("PodSpec", "Container", "Probe", "ObjectMeta", "Volume", "Toleration", "NodeAffinity")
SCALARS = st.sampled_from(["", "a", "1", "0", "500m", "http", 0, 1, 8080.0, 1.5, -1, 2**40, True, False, None])


@cache
def fitting(name: str, depth: int = 2) -> st.SearchStrategy[dict[str, Any]]:
    """Values that mostly fit a type."""
    members = []
    for field in schema.TYPES[name].fields.values():
        if field.type is not None and depth == 0:
            continue
        inner: st.SearchStrategy[Any] = SCALARS if field.type is None else fitting(field.type.name, depth - 1)
        if field.kind >= PURE.MAP:
            inner = st.dictionaries(st.sampled_from(["cpu", "a", ""]), SCALARS, max_size=2)
        elif field.kind >= PURE.LIST:
            inner = st.lists(inner, max_size=2)
        members.append(st.tuples(st.sampled_from([field.name, field.name, field.name.upper()]), inner))
    return st.lists(st.one_of(members), max_size=4).map(dict) if members else st.just({})


VALUES = st.sampled_from(NAMES).flatmap(lambda name: st.tuples(st.just(name), fitting(name), fitting(name)))


def outcome(function: Any, *arguments: Any) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    except ValueError as error:
        return type(error).__name__, str(error)


@settings(deadline=None)
@given(VALUES)
def test_twins_agree_on_decoding_and_overlays(value: Any) -> None:
    name, left, right = value
    results: list[Any] = []
    for twin, types in ((PURE, TYPES["pure"]), (apitypes, TYPES["in use"])):
        first, second = outcome(twin.decode, left, types[name]), outcome(twin.decode, right, types[name])
        is_fine = first[0] == second[0] == "value"
        merged = outcome(twin.overlay, first[1], second[1], types[name]) if is_fine else None
        results.append((first, second, merged))
    assert results[0] == results[1]


@settings(deadline=None)
@given(VALUES)
def test_written_form_is_final_and_overlays_keep_it(value: tuple[str, Any, Any]) -> None:
    struct = schema.TYPES[value[0]]
    (kind, left), (other, right) = (outcome(apitypes.decode, item, struct) for item in value[1:])
    if kind != "value" or other != "value":
        return
    assert apitypes.decode(left, struct) == left
    merged = apitypes.overlay(left, right, struct)
    assert apitypes.decode(merged, struct) == merged
    assert apitypes.overlay(left, apitypes.decode({}, struct), struct) == left


ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
)


@given(ANY_JSON)
def test_any_json_is_decoded_or_refused(value: Any) -> None:
    assert outcome(PURE.decode, value, TYPES["pure"]["PodSpec"]) == outcome(apitypes.decode, value, schema.POD_SPEC)


@TWINS
def test_keys_are_matched_in_any_case_and_unknown_ones_dropped(twin: Any, types: Any) -> None:
    decoded = twin.decode({"Containers": [{"NAME": "a", "nope": 1}], "nodename": "n"}, types["PodSpec"])
    assert decoded == {"containers": [{"name": "a", "resources": {}}], "nodeName": "n"}


@TWINS
def test_zeros_are_dropped_except_behind_pointers_and_where_required(twin: Any, types: Any) -> None:
    value = {"hostNetwork": False, "enableServiceLinks": False, "priority": 0, "nodeName": "", "volumes": [{}]}
    assert twin.decode(value, types["PodSpec"]) == {
        "containers": None,
        "enableServiceLinks": False,
        "priority": 0,
        "volumes": [{"name": ""}],
    }


@TWINS
def test_empty_objects_behind_pointers_are_kept(twin: Any, types: Any) -> None:
    value: Any = {"containers": [], "affinity": {}, "securityContext": {}, "dnsConfig": None, "tolerations": []}
    assert twin.decode(value, types["PodSpec"]) == {"containers": None, "affinity": {}, "securityContext": {}}


@TWINS
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"containers": "nope"}, "containers: a list is needed, found a string"),
        ({"containers": [{"name": 1}]}, "containers[0].name: a string is needed, found a number"),
        ({"activeDeadlineSeconds": 1.5}, "activeDeadlineSeconds: a 64-bit integer is needed, found 1.5"),
        ({"priority": 2**31}, "priority: a 32-bit integer is needed, found 2147483648"),
        ({"nodeSelector": {"a": 1}}, "nodeSelector[a]: a string is needed, found a number"),
        ({"hostNetwork": 1}, "hostNetwork: a bool is needed, found a number"),
        ({"affinity": []}, "affinity: an object is needed for Affinity, found a list"),
    ],
)
def test_mismatches_are_named_by_their_path(twin: Any, types: Any, value: Any, problem: str) -> None:
    with pytest.raises(twin.MismatchError) as raised:
        twin.decode(value, types["PodSpec"])
    assert str(raised.value) == problem
    assert str(pickle.loads(pickle.dumps(raised.value))) == problem


@TWINS
@pytest.mark.parametrize(
    ("number", "printed"),
    [(1.5, "1500m"), (2.0, "2"), (1e21, "1e+21"), (5e-7, "500e-9"), (1e-5, "10u"), ("1024Mi", "1Gi"), (" 1 ", "1")],
)
def test_numbers_are_quantities(twin: Any, types: Any, number: Any, printed: str) -> None:
    decoded = twin.decode({"overhead": {"cpu": number}}, types["PodSpec"])
    assert decoded["overhead"] == {"cpu": printed}


@TWINS
@pytest.mark.parametrize("number", [10**4000, -(10**4000), 1e300, float("nan"), float("inf"), 10**30], ids=range(6))
@pytest.mark.parametrize("field", ["priority", "activeDeadlineSeconds"])
def test_enormous_numbers_are_refused_in_short_words(twin: Any, types: Any, number: Any, field: str) -> None:
    with pytest.raises(twin.MismatchError) as raised:
        twin.decode({field: number}, types["PodSpec"])
    assert len(str(raised.value)) < 120


@TWINS
@pytest.mark.parametrize("amount", [10**4000, float("nan"), float("-inf"), "9" * 10_000, [], {}, True], ids=range(7))
def test_impossible_amounts_are_refused_in_short_words(twin: Any, types: Any, amount: Any) -> None:
    with pytest.raises(twin.MismatchError) as raised:
        twin.decode({"overhead": {"cpu": amount}}, types["PodSpec"])
    assert str(raised.value).startswith("overhead[cpu]: ")
    assert len(str(raised.value)) < 300


@TWINS
@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        (80, 81, 81),
        (80, 0, 80),
        (80, "http", "http"),
        ("http", 80, "http"),
        ("http", "", "http"),
        ("http", "web", "web"),
        (80, "", ""),
    ],
)
def test_a_named_port_beats_a_number(twin: Any, types: Any, base: Any, over: Any, merged: Any) -> None:
    assert twin.overlay({"port": base}, {"port": over}, types["TCPSocketAction"]) == {"port": merged}


@TWINS
def test_overlay_appends_lists_unites_maps_and_never_takes_zeros(twin: Any, types: Any) -> None:
    base = twin.decode(
        {
            "hostNetwork": True,
            "enableServiceLinks": True,
            "nodeSelector": {"a": "1", "b": "2"},
            "tolerations": [{"key": "a"}],
            "securityContext": {"runAsUser": 1},
            "schedulerName": "volcano",
        },
        types["PodSpec"],
    )
    over = twin.decode(
        {
            "hostNetwork": False,
            "enableServiceLinks": False,
            "priority": 0,
            "nodeSelector": {"b": "", "c": "3"},
            "tolerations": [{"key": "b"}],
            "securityContext": {"runAsUser": 0, "fsGroup": 0},
        },
        types["PodSpec"],
    )
    before = repr((base, over))
    assert twin.overlay(base, over, types["PodSpec"]) == {
        "containers": None,
        "hostNetwork": True,
        "enableServiceLinks": True,
        "priority": 0,
        "nodeSelector": {"a": "1", "b": "", "c": "3"},
        "tolerations": [{"key": "a"}, {"key": "b"}],
        "securityContext": {"runAsUser": 1, "fsGroup": 0},
        "schedulerName": "volcano",
    }
    assert repr((base, over)) == before
