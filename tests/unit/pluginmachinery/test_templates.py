from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from flyteidl2.core.literals_pb2 import Literal, LiteralMap, Primitive, Scalar
from hypothesis import given
from hypothesis import strategies as st

from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.errors import DecodeError, PermanentError, StorageError, TransientError
from propfan.pluginmachinery.templates import TemplateParameters, compile_templates

PATHS = IOPaths(
    input_prefix="s3://b/in",
    output_prefix="s3://b/out",
    raw_output_prefix="s3://b/raw",
    input="s3://b/in/inputs.pb",
    output="s3://b/out/outputs.pb",
    error="s3://b/out/error.pb",
    deck="s3://b/out/report.html",
    checkpoint_prefix="s3://b/raw/_flytecheckpoints",
    previous_checkpoints_prefix="s3://b/raw0/_flytecheckpoints",
    task_template="s3://b/out/task.pb",
)


def text_inputs(**texts: str) -> LiteralMap:
    return LiteralMap(
        literals={name: Literal(scalar=Scalar(primitive=Primitive(string_value=text))) for name, text in texts.items()}
    )


def parameters(inputs: LiteralMap | Exception | None = None, **changes: Any) -> TemplateParameters:
    given_values = {"generated_name": "r4xk-a0-0", "namespace": "ns"}
    named = {key: changes.pop(key) for key in list(changes) if key in given_values}
    paths = msgspec.structs.replace(PATHS, **changes)
    return TemplateParameters(**{**given_values, **named}, paths=paths, inputs=inputs)


def render(*strings: str, inputs: LiteralMap | Exception | None = None, **changes: Any) -> list[str]:
    return compile_templates(strings).render(parameters(inputs, **changes))


def problem(*strings: str, inputs: LiteralMap | Exception | None = None, **changes: Any) -> str:
    with pytest.raises(PermanentError) as raised:
        render(*strings, inputs=inputs, **changes)
    assert raised.value.code == ""
    return raised.value.message


def test_every_placeholder_has_its_value() -> None:
    assert render(
        "{{.input}}",
        "{{.outputPrefix}}",
        "{{.inputPrefix}}",
        "{{.rawOutputDataPrefix}}",
        "{{.prevCheckpointPrefix}}",
        "{{.checkpointOutputPrefix}}",
        "{{.perRetryUniqueKey}}",
        "{{.taskTemplatePath}}",
        "{{.namespace}}",
        "{{.inputs.x}}",
        inputs=text_inputs(x="1"),
    ) == [
        "s3://b/in/inputs.pb",
        "s3://b/out",
        "s3://b/in",
        "s3://b/raw",
        "s3://b/raw0/_flytecheckpoints",
        "s3://b/raw/_flytecheckpoints",
        "r4xk_a0_0",
        "s3://b/out/task.pb",
        "ns",
        "1",
    ]


def test_the_worked_example_of_a_command() -> None:
    rendered = render(
        "--in", "{{.input}}", "--k", "{{ $PerRetryUniqueKey }}", "--n", "{{ .Inputs.n }}", inputs=text_inputs(n="3")
    )
    assert rendered == ["--in", "s3://b/in/inputs.pb", "--k", "r4xk_a0_0", "--n", "3"]


@pytest.mark.parametrize(
    "template",
    ["{{.namespace}}", "{{$namespace}}", "{{ .NAMESPACE }}", "{{\t\n\f\r .nAmEsPaCe\t\n\f\r }}", "{{.name\u017fpace}}"],
)
def test_ways_to_write_a_placeholder(template: str) -> None:
    assert render(template, f"a{template}b{template}") == ["ns", "ansbns"]


@pytest.mark.parametrize(
    "template",
    [
        "{{namespace}}",
        "{{\v.namespace}}",
        "{{\u00a0.namespace}}",
        "{{. namespace}}",
        "{{.namespace}",
        "{{.namespaces}}",
        "{{.\u0131nput}}",
        "{{.outputPre\ufb01x}}",
        "{{.runName}}",
        "{{.inputFile}}",
        "{{.inputs}}",
        "{{.inputs.}}",
        "{{.inputs.a b}}",
        "{{ . }}",
        "{{",
        "",
        "$1 ${input}",
    ],
)
def test_anything_else_stays(template: str) -> None:
    assert render(template, inputs=text_inputs(a="1")) == [template]


def test_values_go_in_as_they_are() -> None:
    odd = r"s3://odd/$1/${x}/\1/\g<0>"
    assert render("{{.outputPrefix}}", "x{{.outputPrefix}}", output_prefix=odd) == [odd, f"x{odd}"]


def test_without_an_earlier_checkpoint_two_quotes_stand_for_it() -> None:
    assert render("--prev={{.prevCheckpointPrefix}}", previous_checkpoints_prefix="") == ['--prev=""']


@pytest.mark.parametrize(
    ("name", "key"),
    [("0-9x", "ax"), ("a--b.c", "a_b_c"), ("_1", "_1"), ("---", "a"), ("\u00e9t\u00e9", "at_"), ("", "")],
)
def test_the_unique_key_is_an_identifier(name: str, key: str) -> None:
    assert render("{{.perRetryUniqueKey}}", generated_name=name) == [key]


def test_a_value_may_hold_placeholders_of_later_kinds_only() -> None:
    nested = "{{.input}}/{{.namespace}}/{{.inputs.x}}"
    assert render("{{.outputPrefix}}", output_prefix=nested, inputs=text_inputs(x="{{.namespace}}")) == [
        "{{.input}}/ns/{{.namespace}}"
    ]


def test_a_placeholder_may_come_about_by_another() -> None:
    assert render("{{.inputs.{{.namespace}}}}", inputs=text_inputs(ns="1")) == ["1"]
    assert render("{{ .name{{.rawOutputDataPrefix}} }}", raw_output_prefix="space") == ["ns"]
    assert render("{{.name{{.namespace}}", namespace="space}}") == ["{{.namespace}}"]
    assert render("{{{.rawOutputDataPrefix}}{.namespace}}", raw_output_prefix="") == ["ns"]


def test_a_placeholder_begins_at_the_inner_braces() -> None:
    assert render("{{{ .input }}}") == ["{s3://b/in/inputs.pb}"]


def test_text_full_of_open_placeholders_is_searched_in_linear_time() -> None:
    # Looking from each of them to the end of the text would take hours.
    hostile = "{{.inputs." * 150_000
    assert render(hostile, "{{.namespace}}" + hostile) == [hostile, f"ns{hostile}"]


def test_without_inputs_their_placeholders_stay() -> None:
    assert render("{{.inputs.x}}{{.namespace}}") == ["{{.inputs.x}}ns"]
    assert render("{{.inputs.x}}", inputs=LiteralMap()) == ["{{.inputs.x}}"]


def test_all_faults_of_a_string_are_told_at_once() -> None:
    inputs = text_inputs(a="1")
    inputs.literals["void"].SetInParent()
    assert problem("{{.inputs.a}}{{ .inputs.B }} {{.inputs.void}}", "{{.inputs.c}}", inputs=inputs) == (
        "0: input template [{{ .inputs.B }}]: requested input is not found [B]\r\n"
        "1: input template [{{.inputs.void}}]: failed to bind a value to inputName [void]: "
        "received an unexpected primitive type [<nil>]\r\n"
    )


def test_looking_for_an_input_does_not_make_one() -> None:
    inputs = text_inputs(a="1")
    problem("{{.inputs.b}}", inputs=inputs)
    assert list(inputs.literals) == ["a"]


def test_unreadable_inputs_matter_only_to_who_asks_for_one() -> None:
    failure = StorageError("s3://b/in/inputs.pb", "down")
    assert render("{{.input}}", inputs=failure) == ["s3://b/in/inputs.pb"]
    with pytest.raises(TransientError, match=r"^unable to read inputs: s3://b/in/inputs.pb: down$") as raised:
        render("{{.inputs.x}}", inputs=failure)
    assert raised.value.__cause__ is failure
    assert problem("{{.inputs.x}}", inputs=DecodeError("inputs.pb", "not a literal map")).startswith("unable to read")


def test_a_template_that_was_not_stored_matters_only_to_who_asks_for_it() -> None:
    assert render("{{.input}}", task_template="") == ["s3://b/in/inputs.pb"]
    assert problem("{{.taskTemplatePath}} {{.inputs.x}}", task_template="", inputs=text_inputs(y="")) == (
        "no task template path"
    )


def test_without_storage_only_an_empty_list_is_rendered() -> None:
    nowhere = TemplateParameters("r-0", "ns", None)
    assert compile_templates([]).render(nowhere) == []
    with pytest.raises(PermanentError, match=r"^input reader and output path cannot be nil$"):
        compile_templates(["a"]).render(nowhere)


@pytest.mark.parametrize(
    ("template", "inputs", "path"),
    [
        ("{{.runName}} {{.other}}", False, False),
        ("{{.input}}", False, False),
        ("{{.Inputs.x}}", True, False),
        ("{{.taskTemplatePath}}", False, True),
        ("{{.in{{.namespace}}}}", True, True),
    ],
)
def test_what_is_needed_is_known_beforehand(template: str, inputs: bool, path: bool) -> None:  # noqa: FBT001
    compiled = compile_templates([template])
    assert (compiled.needs_inputs, compiled.needs_task_template_path) == (inputs, path)


def test_equal_strings_compile_to_equal_keys() -> None:
    strings = ["a0", "{{.input}}", "{{.inputs.x}}", "{{.in{{.input}}"]
    assert {compile_templates(strings): 1}[compile_templates(iter(strings))] == 1


ORDER = [
    "Input",
    "OutputPrefix",
    "InputPrefix",
    "RawOutputDataPrefix",
    "PrevCheckpointPrefix",
    "CheckpointOutputPrefix",
    "PerRetryUniqueKey",
    "TaskTemplatePath",
    "Namespace",
]
pieces = st.sampled_from(
    [
        *(f"{{{{.{name}}}}}" for name in ORDER),
        "{{ $inputs.x }}",
        "{{.inputs.y}}",
        "{{.",
        "{",
        "}",
        "}}",
        "{{",
        "name",
        "space",
        ".",
        " ",
        "a",
        "Input",
        "s.x",
        "\u0130",
        "{{.runName}}",
    ]
)
strings_of_pieces = st.lists(pieces, max_size=6).map("".join)
values_of_pieces = st.one_of(st.just("s3://b/x"), strings_of_pieces)


@given(
    st.lists(strings_of_pieces, max_size=4),
    st.lists(values_of_pieces, min_size=9, max_size=9),
    values_of_pieces,
)
def test_one_pass_gives_what_kind_after_kind_gives(strings: list[str], values: list[str], x: str) -> None:
    values[4] = values[4] or '""'
    values[6] = re.sub(r"[^a-zA-Z0-9_]+", "_", re.sub(r"\A[^a-zA-Z_]+", "a", generated_name := values[6]))
    values[7] = values[7] or "s3://b/out/task.pb"
    paths = msgspec.structs.replace(
        PATHS,
        input=values[0],
        output_prefix=values[1],
        input_prefix=values[2],
        raw_output_prefix=values[3],
        previous_checkpoints_prefix=values[4],
        checkpoint_prefix=values[5],
        task_template=values[7],
    )
    inputs = text_inputs(x=x)

    def one_after_the_other(text: str) -> str:
        for name, value in zip(ORDER, values, strict=True):
            pattern = rf"\{{\{{\s*[.$]{name}\s*\}}\}}"
            text = re.sub(pattern, value.replace("\\", r"\\"), text, flags=re.IGNORECASE | re.ASCII)
        found = re.compile(r"\{\{\s*[.$]inputs\.([^}\s]+)\s*\}\}", re.IGNORECASE | re.ASCII)
        if any(name != "x" for name in found.findall(text)):
            raise LookupError
        return found.sub(lambda _: x, text)

    try:
        expected: object = [one_after_the_other(string) for string in strings]
    except LookupError:
        expected = PermanentError
    compiled = compile_templates(strings)
    try:
        actual: object = compiled.render(TemplateParameters(generated_name, values[8], paths, inputs))
    except PermanentError as error:
        assert "requested input is not found" in error.message  # noqa: PT017 - an error is one of two good outcomes
        actual = PermanentError
    assert actual == expected
