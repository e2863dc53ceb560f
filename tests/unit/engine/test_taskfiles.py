from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from flyteidl2.core import interface_pb2, literals_pb2, tasks_pb2, types_pb2
from flyteidl2.task import common_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from propfan.engine.taskfiles import FILE_LIMIT_BYTES, TEMPLATE_LIMIT_BYTES, read_tasks
from propfan.pluginmachinery.errors import ConfigError, DecodeError

TASK: dict[str, Any] = {
    "id": {"resource_type": "TASK", "project": "p", "domain": "d", "name": "greet", "version": "v1"},
    "type": "raw-container",
    "metadata": {"retries": {"retries": 2}, "timeout": "90s", "interruptible": True},
    "interface": {"inputs": {"variables": [{"key": "name", "value": {"type": {"simple": "STRING"}}}]}},
    "custom": {"a": [1, None, {"b": "c"}]},
    "container": {
        "image": "busybox",
        "command": ["/bin/sh", "-c"],
        "args": ["echo hello {{.Inputs.name}}"],
        "resources": {"requests": [{"name": "CPU", "value": "100m"}]},
        "env": [{"key": "A", "value": "1"}],
    },
    "config": {"x": "y"},
}
BARE = "type: raw-container\nid: {name: t}\ncontainer: {image: busybox, command: ['true']}\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def template_of(content: bytes) -> tasks_pb2.TaskTemplate:
    return tasks_pb2.TaskTemplate.FromString(content)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DecodeError) as caught:
        read_tasks(path, **options)
    return str(caught.value)


def camel(value: Any) -> Any:
    """Protobuf's other spelling of the same message, made by protobuf itself."""
    return MessageToDict(ParseDict(value, tasks_pb2.TaskTemplate()))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write(tmp_path, "inputs.json", '{"name": "world"}')


def test_every_format_and_spelling_gives_the_same_bytes(tmp_path: Path, inputs: Path) -> None:
    expected = template_of(read_tasks(write(tmp_path, "a.json", json.dumps(TASK)), inputs=inputs)[0].template)
    files = [
        write(tmp_path, "b.yaml", yaml.safe_dump(TASK)),
        write(tmp_path, "c.yml", yaml.safe_dump(camel(TASK))),
        write(tmp_path, "d.json", json.dumps(camel(TASK), indent="\t")),
        write(tmp_path, "e.pb", expected.SerializeToString()),
    ]
    for file in files:
        (task,) = read_tasks(file, inputs=inputs)
        assert template_of(task.template) == expected
        assert (task.name, task.task_type, task.source) == ("greet", "raw-container", str(file))


def test_documents_of_a_yaml_file_are_tasks_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, "tasks.yaml", f"---\n{BARE}---\n\n---\n{BARE.replace('name: t', 'name: u')}...\n")
    assert [(task.name, task.source) for task in read_tasks(path)] == [("t", f"{path}[0]"), ("u", f"{path}[1]")]


def test_overrides_replace_what_the_template_says(tmp_path: Path, inputs: Path) -> None:
    path = write(tmp_path, "a.json", json.dumps(TASK))
    metadata = template_of(read_tasks(path, inputs=inputs, retries=0, timeout_s=1.5)[0].template).metadata
    assert metadata.retries.retries == 0
    assert metadata.timeout.ToNanoseconds() == 1_500_000_000
    assert metadata.interruptible
    for bad in ({"retries": -1}, {"retries": 10**6}, {"timeout_s": 0}, {"timeout_s": float("nan")}):
        with pytest.raises(ConfigError):
            read_tasks(path, inputs=inputs, **bad)


def test_every_missing_field_is_named_at_once(tmp_path: Path) -> None:
    assert "missing: id.name, type" in refusal(write(tmp_path, "a.yaml", "metadata: {}"))
    assert "missing: id.name, container.image" in refusal(write(tmp_path, "b.yaml", "type: python\ncontainer: {}"))
    assert "missing: container or k8s_pod" in refusal(write(tmp_path, "c.yaml", "type: python\nid: {name: x}"))
    assert "missing: k8s_pod.pod_spec.containers" in refusal(
        write(tmp_path, "d.yaml", "type: python\nid: {name: x}\nk8s_pod: {pod_spec: {}}")
    )
    variables = "interface: {outputs: {variables: [{key: a}, {value: {type: {simple: NONE}}}]}}"
    assert "missing: interface.outputs.variables[0].value.type, interface.outputs.variables[1].key" in refusal(
        write(tmp_path, "e.yaml", BARE + variables)
    )


def test_types_that_need_no_pod_need_no_container(tmp_path: Path) -> None:
    (task,) = read_tasks(write(tmp_path, "a.yaml", "type: core-sleep\nid: {name: nap}"))
    assert task.task_type == "core-sleep"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metadata:\n  retrys: {}", "line 5: metadata.retrys: no such field; did you mean 'retries'?"),
        ("metadata: {timeout: 3}", "line 4: metadata.timeout: must be a duration such as '90s', is 3"),
        ("metadata:\n\n  retries: {retries: -1}", "line 6: metadata.retries.retries: must be a number in range, is -1"),
        ("securityContex: {}", "line 4: securityContex: no such field; did you mean 'securityContext'?"),
        ("metadata: {discoverable: 'yes'}", 'metadata.discoverable: must be true or false, is "yes"'),
        ("metadata: 1", "line 4: metadata: must be an object, is 1"),
        ("metadata: {timeout: -3s}", "metadata.timeout: must not be negative"),
        ("config: {a: 1}", "line 4: config.a: must be a text: put it in quotes, is 1"),
        ("k8s_pod: {}", "line 4: k8s_pod: can not be set beside container"),
        ("custom: {a: [.nan]}", "line 4: custom.a[0]: must be a finite number"),
        ("type: x", "type: the key occurs twice"),
        ("interface: {inputs: {variables: {}}}", "interface.inputs.variables: must be a list, is an object"),
        ("worker_kind: true", "worker_kind: must be one of WORKER_KIND_UNSPECIFIED, WORKER_KIND_SANDBOX, is true"),
        ("? [a]\n: b", "line 4: document: a key must be a text"),
        ("x: [", "not YAML"),
        ("x: !thing 1", "line 4, column 4: not YAML"),
        ("x: " + "9" * 5000, "not YAML"),
        ("x: " + "[" * 200_000, "nested more than 100 levels"),
        ("x: &x [*x]", "levels"),
        ("".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9 if n else 1}]\n" for n in range(9)), "more than 200000 values"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    message = refusal(write(tmp_path, "task.yaml", BARE + text))
    assert message.startswith(str(tmp_path / "task.yaml"))
    assert problem in message


def test_a_struct_deeper_than_protobuf_allows_is_refused(tmp_path: Path) -> None:
    text = BARE + "custom: {a: " + "[" * 60 + "]" * 60 + "}"
    assert "Message too deep" in refusal(write(tmp_path, "task.yaml", text))


def test_many_problems_are_told_together_but_not_all(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "task.yaml", "\n".join(f"field{n}: 1" for n in range(5000))))
    assert "field0" in message
    assert "field19" in message
    assert message.endswith("and perhaps more")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"type": "x",}', "line 1, column 14: not JSON"),
        ('{"type": "x", "type": "y"}', "key 'type' occurs twice"),
        ("[" * 200_000, "nested more than 100 levels"),
        ('{"custom": {"a": ' + "[" * 400 + "]" * 400 + "}}", "nested more than 100 levels"),
        ("[]", "must be an object, is a list"),
        ('{"type": NaN}', "must be a finite number"),
        ('{"type": "\\ud800"}', "type: must be a text"),
        (" ", "empty"),
        (b"\xff{}", "not UTF-8 text: byte 0 is 0xff"),
    ],
)
def test_wrong_json_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    assert problem in refusal(write(tmp_path, "task.json", text))


def test_what_is_not_a_readable_file_of_a_known_kind_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    assert "can not be read: No such file" in refusal(tmp_path / "none.yaml")
    assert "not a regular file" in refusal(tmp_path / "folder.yaml")
    assert "not a regular file" in refusal(tmp_path / "pipe.yaml")
    assert "must end with one of .pb, .json" in refusal(write(tmp_path, "task.txt", BARE))
    assert "empty" in refusal(write(tmp_path, "empty.yaml", ""))
    assert "empty" in refusal(write(tmp_path, "comment.yaml", "# nothing\n---\n"))
    assert "not a serialised flyteidl2.core.TaskTemplate" in refusal(write(tmp_path, "task.pb", b"\xff" * 9))
    assert "can not be read" in refusal(Path("a\0.yaml"))


def test_sizes_are_bounded(tmp_path: Path) -> None:
    big = BARE + "config: {a: " + "x" * TEMPLATE_LIMIT_BYTES + "}"
    assert f"the limit is {TEMPLATE_LIMIT_BYTES}" in refusal(write(tmp_path, "big.yaml", big))
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    assert f"the limit is {FILE_LIMIT_BYTES}" in refusal(tmp_path / "sparse.yaml")


def variable(**type_of: Any) -> interface_pb2.Variable:
    return interface_pb2.Variable(type=types_pb2.LiteralType(**type_of))


SIMPLE = types_pb2.SimpleType
OPTIONAL_INT = types_pb2.UnionType(
    variants=[types_pb2.LiteralType(simple=SIMPLE.INTEGER), types_pb2.LiteralType(simple=SIMPLE.NONE)]
)
INTERFACE = {
    "i": variable(simple=SIMPLE.INTEGER),
    "f": variable(simple=SIMPLE.FLOAT),
    "s": variable(simple=SIMPLE.STRING),
    "b": variable(simple=SIMPLE.BOOLEAN),
    "when": variable(simple=SIMPLE.DATETIME),
    "span": variable(simple=SIMPLE.DURATION),
    "numbers": variable(collection_type=types_pb2.LiteralType(simple=SIMPLE.INTEGER)),
    "table": variable(map_value_type=types_pb2.LiteralType(simple=SIMPLE.FLOAT)),
    "colour": variable(enum_type=types_pb2.EnumType(values=["RED", "GREEN"])),
    "maybe": variable(union_type=OPTIONAL_INT),
    "file": variable(blob=types_pb2.BlobType()),
    "frame": variable(structured_dataset_type=types_pb2.StructuredDatasetType(format="parquet")),
    "thing": variable(simple=SIMPLE.STRUCT),
}
VALUES: dict[str, Any] = {
    "i": -(2**63),
    "f": 3,
    "s": "ü",
    "b": True,
    "when": "2030-01-31T12:00:00+01:00",
    "span": "1.5s",
    "numbers": [1, 2],
    "table": {"x": 1.5},
    "colour": "RED",
    "maybe": 4,
    "file": "s3://bucket/file",
    "frame": "s3://bucket/frame",
    "thing": {"a": [1, {"b": None}]},
}


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    entries = [interface_pb2.VariableEntry(key=key, value=value) for key, value in INTERFACE.items()]
    template = tasks_pb2.TaskTemplate(
        type="python",
        container=tasks_pb2.Container(image="x"),
        interface=interface_pb2.TypedInterface(inputs=interface_pb2.VariableMap(variables=entries)),
    )
    template.id.name = "typed"
    return write(tmp_path, "typed.pb", template.SerializeToString())


def literals(task_inputs: bytes | None) -> dict[str, literals_pb2.Literal]:
    assert task_inputs is not None
    return {entry.name: entry.value for entry in common_pb2.Inputs.FromString(task_inputs).literals}


def test_values_become_literals_of_the_declared_types(tmp_path: Path, typed: Path) -> None:
    for name, text in (("v.yaml", yaml.safe_dump(VALUES)), ("v.json", json.dumps(VALUES))):
        found = literals(read_tasks(typed, inputs=write(tmp_path, name, text))[0].inputs)
        primitives = {key: literal.scalar.primitive for key, literal in found.items()}
        assert primitives["i"].integer == -(2**63)
        assert primitives["f"].float_value == 3.0
        assert primitives["s"].string_value == "ü"
        assert primitives["b"].boolean is True
        assert primitives["when"].datetime.ToJsonString() == "2030-01-31T11:00:00Z"
        assert primitives["span"].duration.ToNanoseconds() == 1_500_000_000
        assert [item.scalar.primitive.integer for item in found["numbers"].collection.literals] == [1, 2]
        assert found["table"].map.literals["x"].scalar.primitive.float_value == 1.5
        assert primitives["colour"].string_value == "RED"
        assert found["maybe"].scalar.union.value.scalar.primitive.integer == 4
        assert found["maybe"].scalar.union.type.simple == SIMPLE.INTEGER
        assert found["file"].scalar.blob.uri == "s3://bucket/file"
        assert found["frame"].scalar.structured_dataset.metadata.structured_dataset_type.format == "parquet"
        assert msgspec.msgpack.decode(found["thing"].scalar.binary.value) == VALUES["thing"]
        assert found["thing"].scalar.binary.tag == "msgpack"


def test_serialised_inputs_are_passed_on_as_they_are(tmp_path: Path, typed: Path) -> None:
    content = read_tasks(typed, inputs=write(tmp_path, "v.json", json.dumps(VALUES)))[0].inputs
    assert content is not None
    assert read_tasks(typed, inputs=write(tmp_path, "v.pb", content))[0].inputs == content
    as_map = literals_pb2.LiteralMap(literals=literals(content)).SerializeToString()
    assert literals(read_tasks(typed, inputs=write(tmp_path, "m.pb", as_map))[0].inputs) == literals(content)
    assert "not a serialised flyteidl2.task.Inputs" in refusal(typed, inputs=write(tmp_path, "bad.pb", b"\xff" * 5))
    wrong = literals(content)
    wrong["i"] = literals_pb2.Literal(scalar={"primitive": {"string_value": "x"}})
    as_map = literals_pb2.LiteralMap(literals=wrong).SerializeToString()
    assert "i: must be a primitive integer, is string_value" in refusal(typed, inputs=write(tmp_path, "w.pb", as_map))


def test_missing_and_unknown_inputs_are_named(tmp_path: Path, typed: Path) -> None:
    assert "inputs without a value: i, f, s, b, when, span, numbers, table, colour, file" in refusal(typed)
    less = {name: value for name, value in VALUES.items() if name not in ("i", "maybe", "thing")} | {"tabel": {}}
    message = refusal(typed, inputs=write(tmp_path, "v.json", json.dumps(less)))
    assert "inputs without a value: i, thing;" in message
    assert "tabel: no such input; did you mean 'table'?" in message
    bare = write(tmp_path, "bare.yaml", BARE)
    assert "x: no such input; the task's interface declares no inputs" in refusal(
        bare, inputs=write(tmp_path, "x.json", '{"x": 1}')
    )
    assert read_tasks(bare)[0].inputs is None


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("i", 1.5, "i: must be an integer, is 1.5"),
        ("i", True, "i: must be an integer, is True"),
        ("i", 2**63, "i: must be an integer of 64 bits"),
        ("i", None, "i: must be an integer, is None"),
        ("f", "1", "f: must be a number, is '1'"),
        ("f", 10**400, "f: must be a number that fits 64 bits"),
        ("s", 1, "s: must be a text, is 1"),
        ("b", 1, "b: must be true or false, is 1"),
        ("when", "yesterday", "when: must be a date such as"),
        ("span", "3 weeks", "span: must be seconds or a duration"),
        ("span", 1e300, "span: must be seconds or a duration"),
        ("numbers", [1, "x"], "numbers[1]: must be an integer, is 'x'"),
        ("numbers", {}, "numbers: must be a list, is {}"),
        ("table", {"x": []}, "table.x: must be a number, is []"),
        ("colour", "BLUE", "colour: must be one of RED, GREEN, is 'BLUE'"),
        ("maybe", "x", "maybe: must be an integer, is 'x' or must be null, is 'x'"),
        ("file", 3, "file: must be the URI of a file or folder, is 3"),
        ("thing", 3, "thing: must be an object, is 3"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_line(
    tmp_path: Path, typed: Path, name: str, value: Any, problem: str
) -> None:
    text = yaml.safe_dump({name: value, **{key: item for key, item in VALUES.items() if key != name}}, sort_keys=False)
    message = refusal(typed, inputs=write(tmp_path, "v.yaml", text))
    assert problem in message
    assert "v.yaml: line " in message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".pb", ".json", ".yaml"]))
def test_any_bytes_are_tasks_or_a_decode_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    try:
        read_tasks(write(tmp_path, f"any{suffix}", content))
    except DecodeError:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(fields=st.dictionaries(st.sampled_from([*TASK, "k8sPod", "taskTypeVersion", "nonsense"]), JSON, max_size=4))
def test_any_value_of_a_field_is_taken_or_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    for name, text in (("any.json", json.dumps(TASK | fields)), ("any.yaml", yaml.safe_dump(TASK | fields))):
        try:
            read_tasks(write(tmp_path, name, text))
        except DecodeError:
            continue


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(values=st.dictionaries(st.sampled_from([*INTERFACE, "nonsense"]), JSON, max_size=4))
def test_any_input_value_is_taken_or_refused(tmp_path: Path, typed: Path, values: dict[str, Any]) -> None:
    try:
        read_tasks(typed, inputs=write(tmp_path, "any.json", json.dumps(VALUES | values)))
    except DecodeError:
        return
