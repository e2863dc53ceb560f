from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery import names
from propfan.pluginmachinery.errors import NameTooLongError
from propfan.pluginmachinery.names import HashAlgorithm

HASHED_LENGTH = {HashAlgorithm.FNV32A: 8, HashAlgorithm.FNV64A: 14, HashAlgorithm.FNV128A: 27}
texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=300)


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        (HashAlgorithm.FNV32A, "bf9cf968"),
        (HashAlgorithm.FNV64A, "85944171f73967e8"),
        (HashAlgorithm.FNV128A, "343e1662793c64bf6f0d3597ba446f18"),
    ],
)
def test_hashes_are_fnv_1a(algorithm: HashAlgorithm, digest: str) -> None:
    assert names.fnv1a(b"foobar", algorithm).hex() == digest


@given(st.binary(max_size=64))
def test_base32_reads_back(content: bytes) -> None:
    encoded = names.base32_encode(content)
    assert re.fullmatch("[a-z1-6]*", encoded)
    assert names.base32_decode(encoded) == content


@pytest.mark.parametrize("text", ["A", "a7", "ab=", "a", "\u00e9"])
def test_what_is_no_base32_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"base 32|padding|Incorrect"):
        names.base32_decode(text)


@given(texts, st.integers(min_value=0, max_value=80), st.sampled_from(HashAlgorithm))
def test_a_name_keeps_its_bound_or_says_that_it_can_not(value: str, bound: int, algorithm: HashAlgorithm) -> None:
    length = len(value.encode())
    if length <= bound:
        assert names.fixed_length_unique_id(value, bound, algorithm) == value
    elif bound >= HASHED_LENGTH[algorithm]:
        hashed = names.fixed_length_unique_id(value, bound, algorithm)
        assert re.fullmatch(f"f[a-z1-6]{{{HASHED_LENGTH[algorithm] - 1}}}", hashed)
    else:
        with pytest.raises(NameTooLongError) as raised:
            names.fixed_length_unique_id(value, bound, algorithm)
        assert len(raised.value.result) == HASHED_LENGTH[algorithm]


def test_a_name_is_measured_in_bytes() -> None:
    assert names.fixed_length_unique_id("\u00e9" * 4, 8) == "\u00e9" * 4
    assert names.fixed_length_unique_id("\u00e9" * 5, 8).startswith("f")


def test_parts_are_joined_by_dashes_but_for_empty_ones_in_front() -> None:
    assert names.fixed_length_unique_id_for_parts(["", "", "a", "", "b"], 50) == "a--b"
    assert names.fixed_length_unique_id_for_parts([], 8) == ""


@pytest.mark.parametrize(
    ("value", "kebab"),
    [
        ("PenPineapple", "pen-pineapple"),
        ("ABc9De", "abc9-de"),
        ("XMLHttpRequest2Go", "xmlhttp-request2-go"),
        ("\u00c9t\u00c9", "\u00e9t\u00e9"),
        ("O\u03a3", "o\u03c3"),
        ("\u0130x", "ix"),
    ],
)
def test_humps_become_dashes(value: str, kebab: str) -> None:
    assert names.camel_to_kebab(value) == kebab


@given(texts)
def test_an_object_name_is_valid_or_has_lost_too_much(value: str) -> None:
    converted = names.dns1123_subdomain(value)
    if names.is_dns1123_subdomain(value):
        assert converted == value
    assert len(converted) <= names.MAX_SUBDOMAIN_LENGTH
    assert re.fullmatch(r"([a-z0-9]([-.a-z0-9]*[a-z0-9])?)?", converted)


def test_a_long_object_name_ends_in_the_hash_of_what_was_kept_of_it() -> None:
    converted = names.dns1123_subdomain("A" * 260)
    assert converted == "a" * 222 + "-" + names.fixed_length_unique_id("a" * 260, 30)


@pytest.mark.parametrize("value", ["", "-a", "a-", "a.b", "A", "a\n", "a" * 64, "\u00e4"])
def test_what_is_no_label(value: str) -> None:
    assert not names.is_dns1123_label(value)


@pytest.mark.parametrize("value", ["", ".a", "a.", "a..b", "a.-b", "a\n", "a" * 254])
def test_what_is_no_subdomain(value: str) -> None:
    assert not names.is_dns1123_subdomain(value)


@given(texts)
def test_a_label_value_is_valid(value: str) -> None:
    sanitized = names.sanitize_label_value(value)
    assert re.fullmatch(r"([A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?", sanitized)
    assert bool(sanitized) == bool(value)
    assert names.sanitize_label_value(sanitized) == sanitized


@pytest.mark.parametrize(
    ("value", "sanitized"),
    [("-x", "xx"), ("_", "x"), ("Run Name/\u00e9", "Run-Name-x"), ("a" * 62 + "-b", "a" * 62 + "x")],
)
def test_what_a_label_value_becomes(value: str, sanitized: str) -> None:
    assert names.sanitize_label_value(value) == sanitized


@pytest.mark.parametrize(
    ("partition", "slices"), [("3g.20gb", "3"), ("10g.100gb", "10"), ("1g.5gb+me", ""), ("1g.5gb\n", ""), ("2x2", "")]
)
def test_slices_are_those_of_a_whole_profile(partition: str, slices: str) -> None:
    assert names.mig_slices(partition) == slices
