from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from typing import Any

import msgspec
import pytest
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2
from flyteidl2.task import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.connector import Blob, Dataset, values
from propfan.pluginmachinery.errors import BadTaskSpecificationError, PermanentError

SIMPLE = types_pb2.SimpleType
Kind = types_pb2.LiteralType


def interface(**outputs: Kind) -> interface_pb2.TypedInterface:
    entries = [
        interface_pb2.VariableEntry(key=name, value=interface_pb2.Variable(type=kind)) for name, kind in outputs.items()
    ]
    return interface_pb2.TypedInterface(outputs=interface_pb2.VariableMap(variables=entries))


def back(outputs: common_pb2.Outputs) -> dict[str, Any]:
    return values.to_natives(common_pb2.Inputs(literals=outputs.literals))


def literal(value: Any, kind: Kind | None = None) -> literals_pb2.Literal:
    declared = None if kind is None else interface(o=kind)
    return values.to_outputs("c", {"o": value}, declared).literals[0].value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.datetimes(timezones=st.just(dt.UTC)),
    st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6)),
)
packable = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]))
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(min_size=1), st.one_of(scalars, st.lists(scalars, max_size=3)), max_size=4))
def test_values_come_back_as_they_went(given_values: dict[str, Any]) -> None:
    assert back(values.to_outputs("c", given_values)) == given_values


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), packable, max_size=3))
def test_objects_are_packed_as_the_sdk_packs_them(value: dict[str, Any]) -> None:
    made = literal(value)
    assert made.scalar.binary.tag == "msgpack"
    assert values.to_natives(common_pb2.Inputs(literals=[common_pb2.NamedLiteral(name="o", value=made)])) == {
        "o": value
    }


def test_order_is_kept_and_references_are_values() -> None:
    outputs = values.to_outputs("c", {"z": Dataset("bq://p:d.t", "parquet"), "a": Blob("s3://b/k", "csv")})
    assert [named.name for named in outputs.literals] == ["z", "a"]
    assert back(outputs) == {"z": Dataset("bq://p:d.t", "parquet"), "a": Blob("s3://b/k", "csv")}
    assert outputs.literals[1].value.scalar.blob.metadata.type.dimensionality == types_pb2.BlobType.SINGLE
    assert back(values.to_outputs("c", {"d": Blob("s3://b/", "", is_multipart=True)}))["d"].is_multipart


def test_structs_dataclasses_and_enums_have_literals() -> None:
    class Point(msgspec.Struct):
        x: int

    @dataclasses.dataclass
    class Label:
        text: str

    class Colour(enum.Enum):
        RED = "red"

    found = back(values.to_outputs("c", {"p": Point(1), "l": Label("a"), "c": Colour.RED}))
    assert found == {"p": {"x": 1}, "l": {"text": "a"}, "c": "red"}


def test_a_literal_message_stands_for_itself() -> None:
    made = literals_pb2.Literal(scalar=literals_pb2.Scalar(error=types_pb2.Error(message="m")))
    assert literal(made) == made


def test_the_declared_type_decides() -> None:
    assert literal(3, Kind(simple=SIMPLE.FLOAT)).scalar.primitive.float_value == 3.0
    mapped = literal({"a": 1}, Kind(map_value_type=Kind(simple=SIMPLE.INTEGER)))
    assert mapped.map.literals["a"].scalar.primitive.integer == 1
    assert (
        literal([1], Kind(collection_type=Kind(simple=SIMPLE.FLOAT)))
        .collection.literals[0]
        .scalar.primitive.float_value
    )
    table = Kind(structured_dataset_type=types_pb2.StructuredDatasetType(format="parquet"))
    assert literal("bq://t", table).scalar.structured_dataset.metadata.structured_dataset_type.format == "parquet"
    folder = Kind(blob=types_pb2.BlobType(format="csv", dimensionality=types_pb2.BlobType.MULTIPART))
    assert literal("s3://b/f", folder).scalar.blob.metadata.type == folder.blob
    either = Kind(union_type=types_pb2.UnionType(variants=[Kind(simple=SIMPLE.INTEGER), Kind(simple=SIMPLE.STRING)]))
    assert literal("x", either).scalar.union.type == Kind(simple=SIMPLE.STRING)
    assert literal("a", Kind(enum_type=types_pb2.EnumType(values=["a"]))).scalar.primitive.string_value == "a"
    assert literal({"k": 1}, Kind(simple=SIMPLE.STRUCT)).scalar.binary.tag == "msgpack"


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        ("x", Kind(simple=SIMPLE.INTEGER), "output 'o': must be int (declared INTEGER), is a str"),
        (True, Kind(simple=SIMPLE.INTEGER), "output 'o': must be int (declared INTEGER), is a bool"),
        (None, Kind(simple=SIMPLE.STRING), "output 'o': must be str (declared STRING), is None"),
        (10**400, Kind(simple=SIMPLE.FLOAT), "output 'o': is too large for a float"),
        ([1, "x"], Kind(collection_type=Kind(simple=SIMPLE.INTEGER)), "output 'o'[1]: must be int"),
        ("xs", Kind(collection_type=Kind(simple=SIMPLE.STRING)), "output 'o': must be of type collection, is a str"),
        ({1: 1}, Kind(map_value_type=Kind(simple=SIMPLE.INTEGER)), "output 'o': must be of type map_value, is a dict"),
        ("z", Kind(enum_type=types_pb2.EnumType(values=["a", "b"])), "output 'o': must be one of a, b, is a str"),
        (7, Kind(blob=types_pb2.BlobType()), "output 'o': must be of type blob, is a int"),
        (
            7,
            Kind(structured_dataset_type=types_pb2.StructuredDatasetType()),
            "output 'o': must be of type structured_dataset",
        ),
        (object(), None, "output 'o': a value of type object has no literal"),
        (b"raw", None, "output 'o': a value of type bytes has no literal"),
        (2**63, None, "output 'o': must be an integer of 64 bits, is 64 bits long"),
        ({"f": print}, None, "output 'o': can not be packed as an object"),
        ("\ud800", None, "output 'o': has no literal"),
        ([[[]]], Kind(collection_type=Kind(simple=SIMPLE.INTEGER)), "output 'o'[0]: must be int"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_path(value: Any, kind: Kind | None, problem: str) -> None:
    with pytest.raises(PermanentError) as caught:
        literal(value, kind)
    assert f"connector 'c': {problem}" in str(caught.value)


def test_endless_nesting_is_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(PermanentError, match="is nested deeper than 40"):
        literal(deep)
    made = literals_pb2.Literal()
    for _ in range(45):
        made = literals_pb2.Literal(collection=literals_pb2.LiteralCollection(literals=[made]))
    with pytest.raises(BadTaskSpecificationError, match=r"input x.*is nested deeper than 40"):
        values.to_natives(common_pb2.Inputs(literals=[common_pb2.NamedLiteral(name="x", value=made)]))


def test_names_are_compared_with_the_interface() -> None:
    declared = interface(a=Kind(simple=SIMPLE.INTEGER), b=Kind(simple=SIMPLE.INTEGER))
    with pytest.raises(PermanentError, match=r"outputs: the task declares b, and the connector gave: a, c"):
        values.to_outputs("x", {"a": 1, "c": 2}, declared)
    assert back(values.to_outputs("x", {"a": 1, "b": 2, "more": object()}, declared)) == {"a": 1, "b": 2}
    with pytest.raises(PermanentError, match="outputs: must be a mapping of names to values, is list"):
        values.to_outputs("x", [1], declared)  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="names must be texts, one is 1"):
        values.to_outputs("x", {1: 1})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("scalar", "problem"),
    [
        (literals_pb2.Scalar(), "is a scalar of no known kind (empty)"),
        (literals_pb2.Scalar(primitive=literals_pb2.Primitive()), "is a primitive without a value"),
        (literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"x", tag="cbor")), "is binary with the tag 'cbor'"),
        (literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"\xc1", tag="msgpack")), "can not be read"),
    ],
)
def test_an_input_without_a_value_is_named(scalar: literals_pb2.Scalar, problem: str) -> None:
    named = common_pb2.NamedLiteral(name="x", value=literals_pb2.Literal(scalar=scalar))
    with pytest.raises(BadTaskSpecificationError) as caught:
        values.to_natives(common_pb2.Inputs(literals=[named]))
    assert f"input x: {problem}" in str(caught.value)


def test_inputs_of_older_kinds_are_values() -> None:
    generic = literals_pb2.Scalar()
    generic.generic.update({"n": 2, "deep": {"k": [True, None]}})
    schema = literals_pb2.Scalar(schema=literals_pb2.Schema(uri="s3://b/t"))
    union = literals_pb2.Scalar(union=literals_pb2.Union(value=literals_pb2.Literal(scalar=schema)))
    made = {"g": generic, "s": schema, "u": union}
    inputs = common_pb2.Inputs(
        literals=[
            common_pb2.NamedLiteral(name=name, value=literals_pb2.Literal(scalar=scalar))
            for name, scalar in made.items()
        ]
    )
    found = values.to_natives(inputs)
    assert found == {"g": {"n": 2.0, "deep": {"k": [True, None]}}, "s": Dataset("s3://b/t"), "u": Dataset("s3://b/t")}


def test_a_date_beyond_the_calendar_is_named() -> None:
    primitive = literals_pb2.Primitive()
    primitive.datetime.seconds = 10**15
    scalar = literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=primitive))
    with pytest.raises(BadTaskSpecificationError, match="input when: can not be read"):
        values.to_natives(common_pb2.Inputs(literals=[common_pb2.NamedLiteral(name="when", value=scalar)]))
