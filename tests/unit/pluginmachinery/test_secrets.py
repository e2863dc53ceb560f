from __future__ import annotations

import pytest
from flyteidl2.core.security_pb2 import Secret
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery import names, secrets
from propfan.pluginmachinery.errors import DecodeError, PermanentError

texts = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)
any_secrets = st.lists(
    st.builds(
        Secret,
        group=texts,
        group_version=texts,
        key=texts,
        mount_requirement=st.sampled_from([0, 1, 2]),
        env_var=texts,
    ),
    max_size=12,
)


@given(any_secrets)
def test_secrets_read_back_in_their_order(asked: list[Secret]) -> None:
    assert secrets.from_annotations(secrets.to_annotations(asked)) == asked


def test_the_text_is_one_line_for_each_field_that_is_set() -> None:
    secret = Secret(group='g"\\', key="k\u00e9\n", mount_requirement=Secret.FILE, env_var="V'")
    encoded = secrets.to_annotations([secret])["flyte.secrets/s0"]
    text = 'group: "g\\"\\\\"\nkey: "k\\303\\251\\n"\nmount_requirement: FILE\nenv_var: "V\'"\n'
    assert names.base32_decode(encoded).decode() == text


def test_an_unknown_mount_requirement_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"^invalid mount requirement \[7\]$"):
        secrets.to_annotations([Secret(key="a"), Secret(key="b", mount_requirement=7)])  # type: ignore[arg-type]


def test_a_secret_that_no_object_could_carry_is_refused() -> None:
    fits = secrets.MAX_DESCRIPTOR_BYTES * 5 // 8 - len('key: ""\n')
    assert len(secrets.to_annotations([Secret(key="k" * fits)])["flyte.secrets/s0"]) == secrets.MAX_DESCRIPTOR_BYTES
    with pytest.raises(PermanentError, match=r"^secret descriptor cannot exceed \[262144\]$"):
        secrets.to_annotations([Secret(key="k" * (fits + 1))])


def test_other_annotations_are_passed_over() -> None:
    assert secrets.from_annotations({"flyte.secrets/t0": "?", "a": "b"}) == []


@pytest.mark.parametrize("value", ["?", "a", names.base32_encode(b"nonsense: 1"), names.base32_encode(b'key: "\\377"')])
def test_a_broken_annotation_is_named(value: str) -> None:
    with pytest.raises(DecodeError, match=r"error unmarshaling secret \[flyte.secrets/s3\]"):
        secrets.from_annotations({"flyte.secrets/s3": value})
