"""Runtime environments: what ``gopkg.in/yaml.v2`` 2.4 writes of the same JSON, as observed."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError
from propfan.plugins.ray.runtime_env import with_variables, yaml_of


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"pip": ["numpy", "pandas"]}, "pip:\n- numpy\n- pandas\n"),
        ({"env_vars": {"A": "1"}, "working_dir": "/x"}, 'env_vars:\n  A: "1"\nworking_dir: /x\n'),
        ({"n": 1.5, "b": True, "z": None}, 'b: true\n"n": 1.5\nz: null\n'),
        (None, "{}\n"),
        ({"e": {}, "l": []}, "e: {}\nl: []\n"),
        ({"a": [{"b": 1, "c": [1, 2]}, [1, [2]]]}, "a:\n- b: 1\n  c:\n  - 1\n  - 2\n- - 1\n  - - 2\n"),
        ({"m": 3, "k": 1e6, "x": 1234567, "t": 0.00001}, "k: 1e+06\nm: 3\nt: 1e-05\nx: 1.234567e+06\n"),
        ({"a10": 1, "a2": 1, "a1": 1, "A": 1, "_": 1}, "_: 1\nA: 1\na1: 1\na2: 1\na10: 1\n"),
        ({"s": ["yes", "1_0", "0x1F", "1:30", "2001-01-01", "~", "", ".5", "<<"]},
         's:\n- "yes"\n- "1_0"\n- "0x1F"\n- "1:30"\n- "2001-01-01"\n- "~"\n- ""\n- ".5"\n- "<<"\n'),
        ({"s": ["_1", "a:b", "-a", "0xg", "1.0.0", "C:\\x"]}, "s:\n- _1\n- a:b\n- -a\n- 0xg\n- 1.0.0\n- C:\\x\n"),
        ({"s": ["x: y", "# a", " lead", "it's: so"]}, "s:\n- 'x: y'\n- '# a'\n- ' lead'\n- 'it''s: so'\n"),
        ({"s": ["a\nb", "a\n", "a\tb", "\u00fc \u2713", "\U0001f600"]},
         's:\n- |-\n  a\n  b\n- |\n  a\n- "a\\tb"\n- \u00fc \u2713\n- "\\U0001F600"\n'),
        ({"": "a", "k\nl": "b"}, '"": a\n? |-\n  k\n  l\n: b\n'),
        ({"w": "word " * 20}, "w: '" + "word " * 15 + "word\n  " + "word " * 4 + "'\n"),
        ({"w": "a\t" + "word " * 20}, 'w: "a\\t' + "word " * 14 + "word\n  " + "word " * 5 + '"\n'),
    ],
)  # fmt: skip
def test_json_becomes_the_yaml_of_go(value: Any, text: str) -> None:
    assert yaml_of(encoded(value)) == text


@given(st.recursive(
    st.text() | st.booleans() | st.none() | st.integers(-999_999, 999_999),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
).filter(lambda value: "\x85" not in json.dumps(value, ensure_ascii=False)))  # fmt: skip
def test_yaml_reads_as_what_it_was_made_of(value: Any) -> None:
    if any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(value, ensure_ascii=False)):
        return
    assert yaml.safe_load(yaml_of(encoded({"value": value}))) == {"value": value}


@pytest.mark.parametrize(
    ("text", "offset"),
    [("notjson!", 7), ("====", 0), ("YQ=", 3), ("YQ", 0), ("YQ==YQ==", 4), ("Y Q=", 1), ("YQ\n=x", 3), ("YWJj=", 4)],
)
def test_what_is_no_base64_is_refused_with_its_first_bad_byte(text: str, offset: int) -> None:
    with pytest.raises(PermanentError, match=f"^illegal base64 data at input byte {offset}$"):
        yaml_of(text)


def test_line_breaks_in_base64_are_skipped() -> None:
    assert yaml_of("eyJhI\r\njogMX0=\n") == "a: 1\n"


@pytest.mark.parametrize("text", ["nope", "[1]", "3", '"a"', "[" * 5000, '{"a": NaN}'])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match=r"^the runtime environment is no JSON"):
        yaml_of(base64.b64encode(text.encode()).decode())


def test_variables_are_added_and_the_users_own_win() -> None:
    merged = with_variables("pip:\n- numpy\nenv_vars:\n  A: mine\n", {"A": "ours", "B": "b"})
    assert yaml.safe_load(merged) == {"pip": ["numpy"], "env_vars": {"A": "mine", "B": "b"}}
    assert yaml.safe_load(with_variables("", {"A": "ours"})) == {"env_vars": {"A": "ours"}}


@pytest.mark.parametrize(
    "text",
    [
        "- a\n",
        "env_vars: 3\n",
        "a: [\n",
        "a: &x [1]\nb: *x\n",
        "a: !!python/object:os.system {}\n",
        "a: !!binary /w==\n",
    ],
)
def test_yaml_that_is_no_plain_map_is_refused(text: str) -> None:
    if "binary" in text:
        assert with_variables(text, {}) == '{"a":"/w==","env_vars":{}}', "bytes are base64 in JSON"
        return
    with pytest.raises(BadTaskSpecificationError, match="the runtime environment"):
        with_variables(text, {})
