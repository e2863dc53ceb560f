"""The recorded templates are what the SDKs make."""

from __future__ import annotations

import pytest

from tests.peers.sdk_templates.__main__ import GENERATIONS, Generation, difference, serialise
from tests.peers.sdk_templates.recorded import recorded

pytestmark = pytest.mark.peer


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda generation: generation.name)
def test_sdk_makes_what_is_recorded(generation: Generation) -> None:
    made = list(serialise(generation))
    assert {one.name: difference(one) for one in made} == {one.name: "" for one in made}
    assert {one.name for one in made} == {one.name for one in recorded() if one.name.startswith(generation.name)}
