"""Inputs become parameters, and never text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from flyteidl2.core import types_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector import Blob, Dataset
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.bigquery.parameters import query_parameters, with_parameters

LiteralType = types_pb2.LiteralType
OPTIONAL_INT = LiteralType(
    union_type=types_pb2.UnionType(variants=[LiteralType(simple=types_pb2.INTEGER), LiteralType(simple=types_pb2.NONE)])
)
LIST_OF_FLOATS = LiteralType(collection_type=LiteralType(simple=types_pb2.FLOAT))


@pytest.mark.parametrize(
    ("template", "statement"),
    [
        ("SELECT {{ .inputs.x }}", "SELECT @x"),
        ("SELECT {{.inputs.x}}+{{inputs.x}} + {{ .Inputs.x }}", "SELECT @x+@x + @x"),
        ("SELECT @x", "SELECT @x"),
        ("SELECT 1 -- {{ .inputs.x }}\n, {{.inputs.x}}", "SELECT 1 -- {{ .inputs.x }}\n, @x"),
        ("SELECT 1 # it's {{ .inputs.x }}\n, {{.inputs.x}}", "SELECT 1 # it's {{ .inputs.x }}\n, @x"),
        ("SELECT /* ' */ {{ .inputs.x }}", "SELECT /* ' */ @x"),
        (r"SELECT 'it\'s -- no comment', {{ .inputs.x }}", r"SELECT 'it\'s -- no comment', @x"),
        ('SELECT """a"b""", {{ .inputs.x }}', 'SELECT """a"b""", @x'),
        ("SELECT `a'b`, {{ .inputs.x }}", "SELECT `a'b`, @x"),
        ("SELECT '{{ other }}'", "SELECT '{{ other }}'"),
    ],
)
def test_placeholder_becomes_a_parameter(template: str, statement: str) -> None:
    assert with_parameters(template, {"x": 1}) == statement


@pytest.mark.parametrize("quotes", ["'{}'", '"{}"', "`proj.{}`", "r'{}'", '"""\n{}"""', "'''{}'''", r"'\'{}'"])
def test_placeholder_in_quotes_is_refused_with_the_way_out(quotes: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"stands in quotes.*: write @x without quotes"):
        with_parameters(f"SELECT {quotes.format('{{ .inputs.x }}')}", {"x": 1})


def test_placeholder_of_no_input_is_refused() -> None:
    with pytest.raises(BadTaskSpecificationError, match=r"\{\{ \.inputs\.y \}\} names no input .* has: x"):
        with_parameters("SELECT {{ .inputs.y }}", {"x": 1})


@given(st.text())
def test_statement_without_placeholders_stays_as_it_is(statement: str) -> None:
    if "inputs" not in statement.lower():
        assert with_parameters(statement, {}) == statement


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (True, "BOOL", "true"),
        (False, "BOOL", "false"),
        (-(2**63), "INT64", "-9223372036854775808"),
        (0.1, "FLOAT64", "0.1"),
        (1e300, "FLOAT64", "1e+300"),
        (float("inf"), "FLOAT64", "inf"),
        ("'; DROP TABLE pets; --", "STRING", "'; DROP TABLE pets; --"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "DATETIME", "2026-01-02T03:04:05.000006"),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2))), "DATETIME", "2026-01-02T01:00:00"),
        (timedelta(days=1, hours=2, minutes=3, seconds=4.5), "INTERVAL", "0-0 1 2:3:4.500000"),
        (timedelta(hours=-30), "INTERVAL", "0-0 -1 -6:0:0.000000"),
        ({"a": [1]}, "JSON", '{"a":[1]}'),
    ],
)
def test_value_is_written_as_the_api_reads_it(value: Any, kind: str, written: str) -> None:
    assert query_parameters({"x": value}, {}) == [
        {"name": "x", "parameterType": {"type": kind}, "parameterValue": {"value": written}}
    ]


@pytest.mark.parametrize(
    ("value", "declared", "kind", "written"),
    [
        (None, OPTIONAL_INT, {"type": "INT64"}, {}),
        (7, OPTIONAL_INT, {"type": "INT64"}, {"value": "7"}),
        (None, None, {"type": "STRING"}, {}),
        ([], LIST_OF_FLOATS, {"type": "ARRAY", "arrayType": {"type": "FLOAT64"}}, {"arrayValues": []}),
        ([1.5], None, {"type": "ARRAY", "arrayType": {"type": "FLOAT64"}}, {"arrayValues": [{"value": "1.5"}]}),
        (
            ["a", "b"],
            None,
            {"type": "ARRAY", "arrayType": {"type": "STRING"}},
            {"arrayValues": [{"value": "a"}, {"value": "b"}]},
        ),
        (3, LiteralType(simple=types_pb2.FLOAT), {"type": "FLOAT64"}, {"value": "3"}),
        ("red", LiteralType(enum_type=types_pb2.EnumType(values=["red"])), {"type": "STRING"}, {"value": "red"}),
    ],
)
def test_declared_type_decides_where_the_value_does_not_tell(
    value: Any, declared: types_pb2.LiteralType | None, kind: Mapping[str, Any], written: Mapping[str, Any]
) -> None:
    (parameter,) = query_parameters({"x": value}, {} if declared is None else {"x": declared})
    assert parameter == {"name": "x", "parameterType": kind, "parameterValue": written}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (Blob("s3://b/f"), "is a Blob, of which BigQuery has no parameter; pass its URI as a string"),
        (Dataset("bq://p:d.t"), "is a Dataset"),
        ([[1]], "holds a list or nothing at all"),
        ([1, None], "holds a list or nothing at all"),
        ([1, "a"], "holds values of several types"),
    ],
)
def test_value_without_a_parameter_is_refused_by_the_inputs_name(value: Any, problem: str) -> None:
    with pytest.raises(BadTaskSpecificationError, match=f"input 'x' {problem}"):
        query_parameters({"x": value}, {})


@pytest.mark.parametrize("begun", ["/* ", "{{ .", "`", "'", '"""', "'''a", "#"])
def test_what_is_begun_ever_again_is_read_once(begun: str) -> None:
    """With a look at the rest from each beginning this would take minutes, in which the service answers nobody."""
    statement = begun * 100_000
    assert with_parameters(statement, {}) == statement
