from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import hashing, pure_twin

PURE = pure_twin("hashing")


@pytest.mark.parametrize("twin", [PURE, hashing], ids=["pure", "in use"])
@pytest.mark.parametrize(("content", "digest"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_digests_are_those_of_the_draft(twin: object, content: bytes, digest: int) -> None:
    assert twin.fnv1a_32(content) == digest  # type: ignore[attr-defined]


@given(st.binary())
def test_twins_agree(content: bytes) -> None:
    assert PURE.fnv1a_32(content) == hashing.fnv1a_32(content)


@pytest.mark.parametrize("twin", [PURE, hashing], ids=["pure", "in use"])
def test_text_is_refused(twin: object) -> None:
    with pytest.raises(TypeError):
        twin.fnv1a_32("text")  # type: ignore[attr-defined]
