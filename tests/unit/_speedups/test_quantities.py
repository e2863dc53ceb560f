"""Kubernetes quantities; the examples are what ``k8s.io/apimachinery`` prints."""

from __future__ import annotations

import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import pure_twin, quantities

PURE = pure_twin("quantities")
TWINS = pytest.mark.parametrize("twin", [PURE, quantities], ids=["pure", "in use"])

suffixes = st.sampled_from(
    [
        "",
        "n",
        "u",
        "m",
        "k",
        "M",
        "G",
        "T",
        "P",
        "E",
        "Ki",
        "Mi",
        "Gi",
        "Ti",
        "Pi",
        "Ei",
        "e3",
        "E6",
        "e-3",
        "e+9",
        "e2",
    ]
)
digits = st.text(alphabet="0123456789", max_size=20)
valid = st.builds(
    lambda sign, whole, fraction, suffix: f"{sign}{whole}{fraction}{suffix}",
    st.sampled_from(["", "+", "-"]),
    digits.filter(bool),
    st.one_of(st.just(""), digits.map(lambda d: f".{d}")),
    suffixes,
)
likely = st.one_of(valid, st.text(alphabet="+-.0123456789eEinumkKMGTP x", max_size=12), st.text())


def outcome(function: Any, *arguments: str) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    except ValueError as error:
        return type(error).__name__, str(error)


@TWINS
@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("1000m", "1"),
        ("0.1", "100m"),
        ("1500m", "1500m"),
        ("2000", "2k"),
        ("1073741824", "1073741824"),
        ("1e9", "1e9"),
        ("10E8", "1e9"),
        ("1024Mi", "1Gi"),
        ("0.5Ki", "512"),
        ("1.5Ki", "1536"),
        ("1.500", "1.500"),
        ("+5", "+5"),
        ("007", "007"),
        ("1E9", "1E9"),
        ("0.5", "500m"),
        ("+007Mi", "+007Mi"),
        ("8Gi", "8Gi"),
        ("1000E", "1"),
        ("Ki", "0"),
        ("-0", "0"),
        ("1.000", "1"),
        ("0.0000000001", "1n"),
        ("100000Ei", "9223372036854775807"),
        ("0.001Ki", "1024m"),
        ("-1.5Gi", "-1536Mi"),
    ],
)
def test_printed_form_keeps_the_family(twin: Any, text: str, printed: str) -> None:
    assert twin.canonical(text) == printed


@TWINS
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", quantities.MALFORMED),
        ("1.2.3", quantities.MALFORMED),
        (" 1", quantities.MALFORMED),
        ("1x", quantities.MALFORMED),
        ("\u0661", quantities.MALFORMED),
        ("1" * 1000, quantities.MALFORMED),
        ("1K", quantities.BAD_SUFFIX),
        ("1e", quantities.BAD_SUFFIX),
        ("1e99999999999", quantities.BAD_SUFFIX),
        ("Pi", quantities.BAD_NUMBER),
    ],
)
def test_errors_say_what_kubernetes_says(twin: Any, text: str, problem: str) -> None:
    with pytest.raises(twin.QuantityError) as raised:
        twin.canonical(text)
    assert str(raised.value) == problem


@given(likely, likely)
def test_twins_agree_on_values_and_errors(left: str, right: str) -> None:
    for name in ("canonical", "settled", "nanos", "is_zero"):
        assert outcome(getattr(PURE, name), left) == outcome(getattr(quantities, name), left)
    assert outcome(PURE.compare, left, right) == outcome(quantities.compare, left, right)


@given(valid)
def test_settled_form_has_the_same_value_and_is_final(text: str) -> None:
    settled = quantities.settled(text)
    assert quantities.nanos(settled) == quantities.nanos(text)
    assert quantities.settled(settled) == settled


@given(st.decimals(min_value=0, max_value=10**12, places=6), st.sampled_from([("k", 3), ("m", -3), ("", 0), ("G", 9)]))
def test_decimal_values_are_exact(number: Decimal, suffix: tuple[str, int]) -> None:
    assert quantities.nanos(f"{number:f}{suffix[0]}") == number.scaleb(suffix[1] + 9)


@TWINS
def test_values_compare_across_families(twin: Any) -> None:
    assert twin.compare("1Gi", "1073741824") == 0
    assert twin.compare("1Gi", "1G") == 1
    assert twin.compare("999m", "1") == -1
    assert twin.is_zero("0Gi")
    assert not twin.is_zero("1n")


@TWINS
def test_errors_survive_pickle(twin: Any) -> None:
    error = twin.QuantityError(quantities.BAD_SUFFIX)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert repr(again) == repr(error)
