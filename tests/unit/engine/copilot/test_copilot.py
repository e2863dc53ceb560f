"""A raw container's inputs as files, and its files as outputs."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from flyteidl2.core import interface_pb2, literals_pb2, types_pb2
from google.protobuf.duration_pb2 import Duration

from propfan.engine.copilot.downloads import download
from propfan.engine.copilot.uploads import OutputProblemError, collect
from propfan.engine.copilot.values import ValueProblemError, from_text, to_text
from propfan.engine.storage import ObjectStore

pytestmark = pytest.mark.anyio

SIMPLE = types_pb2.SimpleType
INPUTS = "memory://run/inputs.pb"


def primitive(**value: object) -> literals_pb2.Scalar:
    return literals_pb2.Scalar(primitive=literals_pb2.Primitive(**value))  # type: ignore[arg-type]


def moment(text: str) -> literals_pb2.Scalar:
    scalar = literals_pb2.Scalar()
    scalar.primitive.datetime.FromJsonString(text)
    return scalar


def structure(**fields: float | str) -> literals_pb2.Scalar:
    scalar = literals_pb2.Scalar()
    scalar.generic.update(fields)
    return scalar


@pytest.mark.parametrize(
    ("kind", "scalar", "text"),
    [
        (SIMPLE.INTEGER, primitive(integer=-5), b"-5"),
        (SIMPLE.FLOAT, primitive(float_value=2.5), b"2.5"),
        (SIMPLE.FLOAT, primitive(float_value=4.0), b"4"),
        (SIMPLE.FLOAT, primitive(float_value=100.0), b"100"),
        (SIMPLE.FLOAT, primitive(float_value=1e-9), b"1e-09"),
        (SIMPLE.FLOAT, primitive(float_value=float("-inf")), b"-Inf"),
        (SIMPLE.BOOLEAN, primitive(boolean=True), b"true"),
        (SIMPLE.BOOLEAN, primitive(boolean=False), b"false"),
        (SIMPLE.STRING, primitive(string_value=" as it is\n"), b" as it is\n"),
        (SIMPLE.DATETIME, moment("2026-03-01T12:30:00.250Z"), b"2026-03-01T12:30:00.250Z"),
        (SIMPLE.DURATION, primitive(duration=Duration(seconds=90, nanos=500_000_000)), b"90.500s"),
        (SIMPLE.STRUCT, structure(a=1, b="x"), b'{"a": 1.0, "b": "x"}'),
        (SIMPLE.BINARY, literals_pb2.Scalar(binary=literals_pb2.Binary(value=b"\0")), b"\0"),
        (SIMPLE.NONE, literals_pb2.Scalar(none_type=literals_pb2.Void()), b"null"),
    ],
)
async def test_a_value_is_read_back_from_its_file(kind: int, scalar: literals_pb2.Scalar, text: bytes) -> None:
    assert to_text(scalar) == text
    assert from_text(text, kind) == scalar


@pytest.mark.parametrize(
    ("kind", "text", "scalar"),
    [
        (SIMPLE.INTEGER, b" 7\n", primitive(integer=7)),
        (SIMPLE.BOOLEAN, b"True\n", primitive(boolean=True)),
        (SIMPLE.DATETIME, b"2026-03-01T12:30:00\n", moment("2026-03-01T12:30:00Z")),
        (SIMPLE.DATETIME, b"2026-03-01T13:30:00+01:00", moment("2026-03-01T12:30:00Z")),
        (SIMPLE.DURATION, b"1h1m0.5s", primitive(duration=Duration(seconds=3660, nanos=500_000_000))),
        (SIMPLE.DURATION, b"-2ms", primitive(duration=Duration(nanos=-2_000_000))),
        (SIMPLE.DURATION, b"1 day, 0:01:30", primitive(duration=Duration(seconds=86_490))),
    ],
)
async def test_other_ways_to_write_a_value_are_known(kind: int, text: bytes, scalar: literals_pb2.Scalar) -> None:
    assert from_text(text, kind) == scalar


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (SIMPLE.INTEGER, b"x"),
        (SIMPLE.INTEGER, str(2**63).encode()),
        (SIMPLE.FLOAT, b""),
        (SIMPLE.BOOLEAN, b"yes"),
        (SIMPLE.STRING, b"\xff"),
        (SIMPLE.DATETIME, b"tomorrow"),
        (SIMPLE.DURATION, b"5"),
        (SIMPLE.STRUCT, b"[1]"),
        (SIMPLE.ERROR, b""),
    ],
)
async def test_what_is_no_value_of_its_type_is_refused_by_its_name(kind: int, text: bytes) -> None:
    with pytest.raises(ValueProblemError, match=f"is no {SIMPLE.Name(kind).lower()}"):
        from_text(text, kind)


def blob(uri: str, *, is_folder: bool = False) -> literals_pb2.Literal:
    literal = literals_pb2.Literal()
    literal.scalar.blob.uri = uri
    if is_folder:
        literal.scalar.blob.metadata.type.dimensionality = types_pb2.BlobType.MULTIPART
    return literal


@pytest.fixture
async def store() -> ObjectStore:
    """With the inputs of a task."""
    made = ObjectStore()
    for name, content in (("a.txt", b"one"), ("other/a.txt", b"two"), ("dir/x", b"3"), ("dir/deep/y", b"4")):
        await made.put(f"memory://files/{name}", content)
    inputs = literals_pb2.LiteralMap()
    inputs.literals["number"].scalar.CopyFrom(primitive(integer=4))
    inputs.literals["file"].CopyFrom(blob("memory://files/a.txt"))
    inputs.literals["folder"].CopyFrom(blob("memory://files/dir", is_folder=True))
    files = inputs.literals["files"].collection
    files.literals.extend([blob("memory://files/a.txt"), blob("memory://files/other/a.txt")])
    inputs.literals["maybe"].scalar.union.value.scalar.CopyFrom(primitive(string_value="it is"))
    await made.put(INPUTS, inputs.SerializeToString())
    return made


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): file.read_text()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith("inputs.")
    }


async def test_inputs_become_files(store: ObjectStore, tmp_path: Path) -> None:
    await download(store, INPUTS, tmp_path, "DIRECT", "JSON")
    assert files_in(tmp_path) == {
        "file": "one",
        "files/0": "one",
        "files/1": "two",
        "folder/deep/y": "4",
        "folder/x": "3",
        "maybe": "it is",
        "number": "4",
    }
    assert json.loads((tmp_path / "inputs.json").read_text()) == {
        "file": f"{tmp_path}/file",
        "files": [f"{tmp_path}/files/0", f"{tmp_path}/files/1"],
        "folder": f"{tmp_path}/folder",
        "maybe": "it is",
        "number": 4,
    }
    assert literals_pb2.LiteralMap.FromString((tmp_path / "inputs.pb").read_bytes()).literals.keys() >= {"number"}


async def test_files_keep_their_names_where_that_is_asked_for(store: ObjectStore, tmp_path: Path) -> None:
    await download(store, INPUTS, tmp_path, "NAMED_DIR", "YAML")
    found = files_in(tmp_path)
    assert {name: found[name] for name in found if name.startswith("file")} == {
        "file/a.txt": "one",
        "files/1_a.txt": "two",
        "files/a.txt": "one",
    }
    assert yaml.safe_load((tmp_path / "inputs.yaml").read_text())["number"] == 4


def interface(**types: types_pb2.LiteralType) -> interface_pb2.TypedInterface:
    made = interface_pb2.TypedInterface()
    for name, kind in types.items():
        made.outputs.variables.add(key=name).value.type.CopyFrom(kind)
    return made


INTEGER = types_pb2.LiteralType(simple=SIMPLE.INTEGER)
FILE = types_pb2.LiteralType(blob=types_pb2.BlobType())
FOLDER = types_pb2.LiteralType(blob=types_pb2.BlobType(dimensionality=types_pb2.BlobType.MULTIPART))
NONE = types_pb2.LiteralType(simple=SIMPLE.NONE)


async def test_files_become_outputs(tmp_path: Path) -> None:
    store = ObjectStore()
    (tmp_path / "number").write_text("5\n")
    (tmp_path / "file").write_text("content")
    (tmp_path / "folder" / "deep").mkdir(parents=True)
    (tmp_path / "folder" / "deep" / "x").write_text("y")
    (tmp_path / "list").mkdir()
    for number in range(11):
        (tmp_path / "list" / str(number)).write_text(str(number))
    optional = types_pb2.LiteralType(union_type=types_pb2.UnionType(variants=[INTEGER, NONE]))
    outputs = await collect(
        store,
        tmp_path,
        interface(
            number=INTEGER,
            file=FILE,
            folder=FOLDER,
            list=types_pb2.LiteralType(collection_type=INTEGER),
            maybe=optional,
        ),
        "memory://raw/1",
    )
    found = {literal.name: literal.value for literal in outputs.literals}
    assert found["number"].scalar.primitive.integer == 5
    assert [one.scalar.primitive.integer for one in found["list"].collection.literals] == list(range(11))
    assert found["maybe"].scalar.union.value.scalar.HasField("none_type")
    assert (found["file"].scalar.blob.uri, found["folder"].scalar.blob.uri) == (
        "memory://raw/1/file",
        "memory://raw/1/folder",
    )
    assert await store.get("memory://raw/1/file") == b"content"
    assert await store.get("memory://raw/1/folder/deep/x") == b"y"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("other", "", "output 'number': no such file"),
        ("number", "many", "output 'number': is no integer"),
        ("number", " " * (2 * 2**20 + 1), "declare a file"),
        ("_ERROR", "it did not work", "User Error: it did not work"),
    ],
)
async def test_outputs_that_are_not_as_declared_are_told(tmp_path: Path, name: str, content: str, problem: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(OutputProblemError, match=problem):
        await collect(ObjectStore(), tmp_path, interface(number=INTEGER), "memory://raw/1")


async def test_durations_of_python_and_go_are_the_same() -> None:
    wanted = timedelta(days=1, hours=2, seconds=3.25)
    for text in (str(wanted), "26h0m3.25s", "93603.25s"):
        assert from_text(text.encode(), SIMPLE.DURATION).primitive.duration.ToTimedelta() == wanted
