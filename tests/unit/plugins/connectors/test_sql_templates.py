"""Values get into statements by being bound."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector import Blob
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.sql_templates import MYSQL, STANDARD, Bound, SqlTemplate, Syntax

PRINTF = Syntax(has_printf=True, has_backslashes=True)


def filled(text: str, syntax: Syntax = STANDARD, **values: Any) -> list[Any]:
    return [
        part.value if isinstance(part, Bound) else f"<{part}>"
        for part in SqlTemplate.parse(text, syntax).filled(values)
    ]


@pytest.mark.parametrize("written", ["{{.inputs.x}}", "{{ .inputs.x }}", "{{  .Inputs.x}}"])
def test_a_placeholder_is_a_bound_value(written: str) -> None:
    assert filled(f"a = {written} or b", x=5) == ["<a = >", 5, "< or b>"]


def test_a_quoted_text_with_placeholders_is_one_bound_text() -> None:
    statement = "a like '%{{.inputs.x}}''s-{{.inputs.n}}%'"
    assert filled(statement, x="' OR 1=1 --", n=3) == ["<a like >", "%' OR 1=1 --'s-3%"]


def test_an_identifier_can_not_be_left() -> None:
    assert filled('from "{{.inputs.t}}"', t='a" where "b') == ['<from "a"" where ""b">']
    assert filled("from `{{.inputs.t}}`", MYSQL, t="a` where `b") == ["<from `a`` where ``b`>"]


def test_mysql_s_double_quotes_are_around_texts() -> None:
    assert filled('a = "{{.inputs.x}}"', MYSQL, x='\\" or 1=1') == ["<a = >", '\\" or 1=1']


def test_a_list_is_a_list_of_values() -> None:
    assert filled("a in {{.inputs.x}}", x=[1, 2]) == ["<a in (>", 1, "<, >", 2, "<)>"]
    assert filled("a in ( {{.inputs.x}} )", x=[1, 2]) == ["<a in ( >", 1, "<, >", 2, "< )>"]


@pytest.mark.parametrize("kept", ["-- it's {{.inputs.x}}\n", "/* ' {{.inputs.x}} */", "$$ it's $$", "$t$ ' $t$"])
def test_comments_and_bodies_stay_as_they_are(kept: str) -> None:
    assert filled(f"{kept} {{{{.inputs.x}}}}", x=1) == [f"<{kept} >", 1]


def test_an_escaped_apostrophe_ends_no_text_where_the_database_says_so() -> None:
    text = r"a = 'it\'s' and b = {{.inputs.x}}"
    assert filled(text, MYSQL, x=1) == [r"<a = 'it\'s' and b = >", 1]
    assert filled(text.replace("'it", "E'it"), x=1) == [r"<a = E'it\'s' and b = >", 1]


def test_the_drivers_own_placeholders_are_known_where_it_has_them() -> None:
    assert filled("a = %(x)s and b like '1%%' and c % 2", PRINTF, x=1) == ["<a = >", 1, "< and b like '1%' and c % 2>"]
    assert filled("a = '%(x)s'", PRINTF, x="b") == ["<a = >", "b"]
    assert filled("a = %(x)s") == ["<a = %(x)s>"]


def test_the_idempotency_key_has_two_names() -> None:
    assert filled("{{.idempotency_key}}, {{ .perRetryUniqueKey }}", idempotency_key="r1-a0-0") == [
        "r1-a0-0",
        "<, >",
        "r1-a0-0",
    ]


def test_values_of_every_kind_are_bound() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    values: dict[str, Any] = {"a": None, "b": True, "c": 1.5, "d": now, "e": Blob("s3://b/k"), "f": {"k": [1]}}
    for name, value in values.items():
        expected = {"e": "s3://b/k", "f": '{"k":[1]}'}.get(name, value)
        assert filled(f"{{{{.inputs.{name}}}}}", **values) == [expected]
    assert filled("'{{.inputs.a}}'", **values) == [None]
    assert filled("'at {{.inputs.d}}'", **values) == ["at 2026-01-02 00:00:00+00:00"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{{.input}}", r"placeholder '\{\{.input\}\}': known are"),
        ("'{{ .rawOutputDataPrefix }}'", r"rawOutputDataPrefix.*known are"),
        ("{{ .inputs.x | upper }}", "known are"),
        ("$$ {{.inputs.x}} $$", r"within \$\$"),
        ("{{.inputs.y}}", "names the input 'y', and the task has: empty, x"),
        ("in {{.inputs.empty}}", "input 'empty' is an empty list"),
        (r"E'\n{{.inputs.x}}'", "can have no backslashes"),
    ],
)
def test_what_can_not_be_bound_is_refused_by_name(text: str, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=problem):
        filled(text, x=1, empty=[])


def test_a_row_of_values_is_repeated_for_each_row() -> None:
    template = SqlTemplate.parse("insert into t (a) values (%(a)s, f(%(b)s, ')')) returning 1", PRINTF)
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    told = ["?" if isinstance(part, Bound) else part for part in template.in_rows(rows)]
    assert "".join(told) == "insert into t (a) values (?, f(?, ')')), (?, f(?, ')')) returning 1"
    assert [part.value for part in template.in_rows(rows) if isinstance(part, Bound)] == [1, "x", 2, "y"]


@pytest.mark.parametrize("text", ["select 1", "values (%(a)s), values (1)", "values (%(a)s"])
def test_a_batch_needs_one_row_of_values(text: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match="batch"):
        SqlTemplate.parse(text, PRINTF).in_rows([{"a": 1}])


SQL = st.text(alphabet="ab '\"\\`;-/*$#%(){}.\n") | st.sampled_from(["{{.inputs.x}}", "'{{.inputs.x}}'", "%(x)s"])


@given(st.lists(SQL, max_size=8).map("".join), st.sampled_from([STANDARD, MYSQL, PRINTF]))
def test_no_template_puts_a_value_into_sql_unquoted(text: str, syntax: Syntax) -> None:
    try:
        parts = SqlTemplate.parse(text, syntax).filled({"x": '"`SECRET`"'})
    except BadTaskSpecificationError:
        return
    for part in parts:
        if isinstance(part, str) and "SECRET" in part:
            assert '""`SECRET`""' in part or '"``SECRET``"' in part


@pytest.mark.parametrize("syntax", [STANDARD, MYSQL, PRINTF])
@pytest.mark.parametrize("begun", ["/* ", "$a$b", "$a", "{{ .", "'", "e'\\", "`", "values (", "%("])
def test_what_is_begun_ever_again_is_read_once(begun: str, syntax: Syntax) -> None:
    """With a look at the rest from each beginning this would take minutes, in which the service answers nobody."""
    with contextlib.suppress(BadTaskSpecificationError):
        SqlTemplate.parse(begun * 100_000, syntax).in_rows([{}])


def test_different_dollar_quotes_that_never_end_are_read_once() -> None:
    text = " ".join(f"$a{number}$" for number in range(100_000))
    assert SqlTemplate.parse(text).filled({}) == [text]


@pytest.mark.parametrize("text", ["v$session$x = {{.inputs.x}} $x", "a$b$ = {{.inputs.x}}$b$"])
def test_dollars_within_names_quote_nothing(text: str) -> None:
    before, _, after = text.partition("{{.inputs.x}}")
    assert filled(text, x=1) == [f"<{before}>", 1, f"<{after}>"]
