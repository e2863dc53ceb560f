from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan._speedups import fragments, pure_twin

PURE = pure_twin("fragments")
TWINS = pytest.mark.parametrize("twin", [PURE, fragments], ids=["pure", "in use"])
MARK = "\ufdd0".encode()

texts = st.text(st.characters(codec=None), max_size=20)
values = st.lists(st.one_of(texts, st.dictionaries(texts, texts, max_size=3)), max_size=4)
programs = st.lists(st.one_of(st.binary(max_size=10), st.integers(-5, 5)), max_size=8).map(tuple)


def outcome(function: Any, *arguments: Any) -> tuple[str, Any]:
    try:
        return "value", function(*arguments)
    except ValueError as error:
        return type(error).__name__, str(error)


@given(programs, values)
def test_twins_render_alike(program: tuple[bytes | int, ...], given_values: Any) -> None:
    assert outcome(PURE.render, program, given_values) == outcome(fragments.render, program, given_values)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_escaped_as_msgspec_does(text: str) -> None:
    assert fragments.render((b'"', 0, b'"'), [text]) == msgspec.json.encode(text)


@TWINS
def test_cut_text_renders_with_its_values(twin: Any) -> None:
    program = twin.cut(b'{"a":"' + MARK + b"0" + MARK + b'","env":[' + MARK + b"1" + MARK + b"]}", MARK)
    rendered = twin.render(program, ['x"y', {"Z": "1", "A": "", "B": "\n"}])
    assert msgspec.json.decode(rendered) == {
        "a": 'x"y',
        "env": [{"name": "A"}, {"name": "B", "value": "\n"}, {"name": "Z", "value": "1"}],
    }


@TWINS
def test_any_number_of_values_can_be_marked(twin: Any) -> None:
    text = b",".join(MARK + str(index).encode() + MARK for index in range(300))
    assert twin.render(twin.cut(text, MARK), [str(index) for index in range(300)]) == text.replace(MARK, b"")


@TWINS
@pytest.mark.parametrize("text", [b"a" + MARK + b"b", MARK + b"AB" + MARK, MARK + MARK])
def test_a_mark_that_stands_alone_is_refused(twin: Any, text: bytes) -> None:
    with pytest.raises(twin.FragmentError, match="a mark stands alone"):
        twin.cut(text, MARK)


@given(values)
def test_twins_find_the_same_empties(given_values: Any) -> None:
    found = PURE.empties(given_values)
    assert fragments.empties(given_values) == found
    assert [bool(found >> index & 1) for index in range(len(given_values))] == [not value for value in given_values]


@TWINS
def test_more_values_than_bits_in_a_word_are_counted(twin: Any) -> None:
    assert twin.empties([""] * 70) == 2**70 - 1


@TWINS
def test_braces_are_looked_for_where_told(twin: Any) -> None:
    texts = ["a{b", "ab", ""]
    assert [twin.have_brace(texts, (index,)) for index in range(3)] == [True, False, False]
    assert not twin.have_brace(texts, ())
