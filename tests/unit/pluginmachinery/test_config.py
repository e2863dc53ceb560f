from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.config import Duration, K8sConfig, StorageConfig, decode_config
from propfan.pluginmachinery.errors import ConfigError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True, rename="kebab"):
    poll_interval: Duration = Duration(10_000_000_000)
    limit: Annotated[int, msgspec.Meta(ge=1)] = 5
    ratio: float = 0.5


class Outer(msgspec.Struct, frozen=True, rename="kebab"):
    inner: Inner = Inner()
    colour: Colour = Colour.RED
    names: Sequence[str] = ()
    by_name: Mapping[str, Inner] = {}
    is_on: bool = False
    maybe: str | None = None
    anything: Any = None


def test_every_kind_of_value_is_decoded() -> None:
    decoded = decode_config(
        Outer,
        {
            "inner": {"poll-interval": "1m30s", "limit": 2, "ratio": 1},
            "colour": "blue",
            "names": ["a"],
            "by-name": {"x": {"limit": 7}},
            "is-on": True,
            "maybe": "m",
            "anything": [1, {"a": None}],
        },
        "section",
    )
    assert decoded == Outer(
        Inner(Duration(90_000_000_000), 2, 1.0), Colour.BLUE, ("a",), {"x": Inner(limit=7)}, True, "m", [1, {"a": None}]
    )


def test_null_and_absent_sections_leave_defaults() -> None:
    assert decode_config(Outer, None, "s") == decode_config(Outer, {"inner": None, "names": None}, "s") == Outer()


@pytest.mark.parametrize(
    ("section", "field", "problem"),
    [
        ({"colur": "red"}, "s.colur", "no such setting, did you mean colour?"),
        ({"zzzzzz": 1}, "s.zzzzzz", "no such setting"),
        ({"inner": {"limit": "5"}}, "s.inner.limit", "must be an integer, is '5'"),
        ({"inner": {"limit": 0}}, "s.inner.limit", "Expected `int` >= 1"),
        ({"inner": {"limit": True}}, "s.inner.limit", "must be an integer, is True"),
        ({"inner": {"poll-interval": 10}}, "s.inner.poll-interval", "must be a duration such as 30s, is 10"),
        ({"inner": {"poll-interval": "10"}}, "s.inner.poll-interval", "'10' is no duration"),
        ({"inner": []}, "s.inner", "must be a map, is a list"),
        ({"colour": "green"}, "s.colour", "must be one of 'red', 'blue', is 'green'"),
        ({"names": "a"}, "s.names", "must be a list, is 'a'"),
        ({"names": ["a", 1]}, "s.names[1]", "must be a string, is 1"),
        ({"names": [None]}, "s.names[0]", "must be a string, is null"),
        ({"by-name": {"x": {"limti": 1}}}, "s.by-name.x.limti", "no such setting, did you mean limit?"),
        ({"by-name": {1: {}}}, "s.by-name", "has the key 1, which is no string"),
        ({"is-on": "true"}, "s.is-on", "must be true or false, is 'true'"),
    ],
)
def test_bad_values_are_refused_by_their_path(section: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        decode_config(Outer, section, "s")
    assert raised.value.field == field
    assert problem in str(raised.value)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as raised:
        decode_config(
            K8sConfig,
            {
                "defalt-cpus": 1,
                "default-memory": "1 GB",
                "default-tolerations": [{"key": 1}],
                "default-affinity": {"nodeAffinity": []},
                "accelerator-device-classes": {"X": {"pod-template": {"template": {"spec": {"containers": 3}}}}},
            },
            "plugins.k8s",
        )
    text = str(raised.value)
    assert "plugins.k8s.defalt-cpus: no such setting, did you mean default-cpus?" in text
    assert "plugins.k8s.default-memory: '1 GB': quantities must match" in text
    assert "plugins.k8s.default-tolerations[0].key: a string is needed, found a number" in text
    assert "plugins.k8s.default-affinity.nodeAffinity: an object is needed" in text
    assert "plugins.k8s.accelerator-device-classes.X.pod-template.template.spec.containers: a list is needed" in text


def test_kubernetes_values_are_kept_in_written_form() -> None:
    k8s = decode_config(
        K8sConfig,
        {"default-tolerations": [{"Key": "a", "value": "", "x": 1}], "default-cpus": 0.5, "default-memory": "1024Mi"},
        "k8s",
    )
    assert k8s.default_tolerations == ({"key": "a"},)
    assert (k8s.default_cpus, k8s.default_memory) == ("500m", "1Gi")


def test_storage_section_of_the_engine_is_understood() -> None:
    section = {"type": "stow", "enable-multicontainer": True, "stow": {"kind": "s3", "config": {"region": "x"}}}
    storage = decode_config(StorageConfig, {**section, "limits": {"maxDownloadMBs": 2}}, "storage")
    assert storage.enable_multicontainer
    assert storage.stow.config == {"region": "x"}


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("0", "0s"),
        ("1h", "1h0m0s"),
        ("90s", "1m30s"),
        ("1.5h", "1h30m0s"),
        ("1500us", "1.5ms"),
        ("2m0.5s", "2m0.5s"),
        ("-1s", "-1s"),
        ("1ns", "1ns"),
        ("1.5µs", "1.5µs"),
        ("100h1ms", "100h0m0.001s"),
    ],
)
def test_durations_print_in_gos_normal_form(text: str, printed: str) -> None:
    assert str(Duration.parse(text)) == printed


@given(st.integers(-(2**62), 2**62))
def test_printed_durations_parse_back(nanoseconds: int) -> None:
    assert Duration.parse(str(Duration(nanoseconds))).nanoseconds == nanoseconds


@given(st.text(alphabet="0123456789.hmsnuµ-+ ", max_size=12))
def test_no_text_breaks_the_parser_of_durations(text: str) -> None:
    try:
        Duration.parse(text)
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017 - it need not be raised


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(list(K8sConfig.__struct_encode_fields__)), inner, max_size=3),
        ),
    )
)
def test_any_document_is_decoded_or_refused(document: Any) -> None:
    try:
        assert isinstance(decode_config(K8sConfig, document, "k8s"), K8sConfig)
    except ConfigError as error:
        assert str(error).startswith("k8s")  # noqa: PT017 - it need not be raised
