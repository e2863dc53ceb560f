from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector import RemotePhase, ResourceMeta, convert_to_flyte_phase, resources
from propfan.pluginmachinery.errors import DecodeError, PermanentError


class Query(ResourceMeta, frozen=True):
    query_id: str
    region: str = "eu"
    pages: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Job:
    name: str
    tags: dict[str, int] = dataclasses.field(default_factory=dict)


class Upper(ResourceMeta, frozen=True):
    """Has an encoding of its own."""

    text: str

    def encode(self) -> bytes:
        return self.text.upper().encode()

    @classmethod
    def decode(cls, content: bytes) -> Upper:
        return cls(content.decode())


@given(st.text(), st.text(), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_what_is_encoded_is_decoded(query_id: str, region: str, pages: list[int]) -> None:
    meta = Query(query_id, region, tuple(pages))
    assert resources.decode_meta("c", Query, resources.encode_meta("c", meta)) == meta


def test_a_dataclass_serves_as_meta() -> None:
    content = resources.encode_meta("c", Job("a", {"b": 1}))
    assert content == b'{"name":"a","tags":{"b":1}}'
    assert resources.decode_meta("c", Job, content) == Job("a", {"b": 1})


def test_an_encoding_of_the_authors_own_is_used() -> None:
    assert resources.encode_meta("c", Upper("abc")) == b"ABC"
    assert resources.decode_meta("c", Upper, b"ABC") == Upper("ABC")


def test_fields_of_other_versions_do_not_matter() -> None:
    assert resources.decode_meta("c", Query, b'{"query_id":"q","new":[1]}') == Query("q")


@given(st.binary())
def test_any_bytes_are_decoded_or_refused(content: bytes) -> None:
    for kind in (Query, Job, Upper):
        try:
            resources.decode_meta("c", kind, content)
        except DecodeError as error:
            told = str(error)
        else:
            continue
        assert told.startswith("resource meta for connector 'c'")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"region":"x"}', "missing required field `query_id`"),
        (b'{"query_id":7}', "Expected `str`, got `int` - at `$.query_id`"),
        (b"[" * 100_000, "is no Query"),
        (b"x" * (resources.MAX_META_BYTES + 1), f"has {resources.MAX_META_BYTES + 1} bytes, the limit is"),
    ],
)
def test_a_bad_meta_is_told_with_what_and_where(content: bytes, problem: str) -> None:
    with pytest.raises(DecodeError) as caught:
        resources.decode_meta("c", Query, content)
    assert problem in str(caught.value)


def test_a_meta_that_is_too_large_or_can_not_be_written_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"connector 'c': Query has \d+ bytes encoded, the limit is 262144"):
        resources.encode_meta("c", Query("x" * resources.MAX_META_BYTES))
    with pytest.raises(PermanentError, match=r"connector 'c': object can not be encoded"):
        resources.encode_meta("c", object())

    class Wrong(ResourceMeta, frozen=True):
        def encode(self) -> bytes:
            return "text"  # type: ignore[return-value]

    with pytest.raises(PermanentError, match=r"Wrong\.encode must return bytes, is str"):
        resources.encode_meta("c", Wrong())


def test_a_decode_that_returns_something_else_is_refused() -> None:
    class Wrong(ResourceMeta, frozen=True):
        @classmethod
        def decode(cls, content: bytes) -> Wrong:
            return content  # type: ignore[return-value]

    with pytest.raises(DecodeError, match=r"Wrong\.decode must return Wrong, is bytes"):
        resources.decode_meta("c", Wrong, b"")


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ("failed timeout timedout canceled cancelled skipped FAILED TimedOut", RemotePhase.FAILED),
        ("internal_error", RemotePhase.RETRYABLE_FAILED),
        ("done succeeded success completed DONE", RemotePhase.SUCCEEDED),
        ("running terminating", RemotePhase.RUNNING),
        ("pending", RemotePhase.INITIALIZING),
    ],
)
def test_words_of_services_have_phases(states: str, phase: RemotePhase) -> None:
    assert {convert_to_flyte_phase(state) for state in states.split()} == {phase}


def test_a_word_without_a_phase_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"Unrecognized state: preempted; known are failed, "):
        convert_to_flyte_phase("PREEMPTED")


def test_phases_that_are_over() -> None:
    over = {phase.name for phase in RemotePhase if phase.is_terminal}
    assert over == {"SUCCEEDED", "ABORTED", "FAILED", "RETRYABLE_FAILED"}


def test_phases_are_those_of_the_wire() -> None:
    from flyteidl2.core import execution_pb2

    assert {phase.name: phase.value for phase in RemotePhase} == dict(execution_pb2.TaskExecution.Phase.items())


def test_what_describes_jobs() -> None:
    assert resources.is_meta_type(Query)
    assert resources.is_meta_type(Job)
    assert resources.is_meta_type(msgspec.defstruct("Made", ["x"]))
    assert not resources.is_meta_type(dict)
    assert not resources.is_meta_type(Job("a"))
