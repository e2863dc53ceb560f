from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_decoder_takes_what_it_should(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].fuzz(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(st.data())
def test_decoder_raises_only_what_it_documents(name: str, data: st.DataObject) -> None:
    TARGETS[name].fuzz(data.draw(TARGETS[name].inputs()))
