"""One target for each decoder of bytes that come from outside.

A target takes any bytes. The decoder under test may raise its documented errors; whatever else leaves a target is a
finding, and so is a compiled twin that does not answer as its definition does.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, TypeVar

import msgspec
from flyteidl2.core import literals_pb2, tasks_pb2

from propfan import _speedups
from propfan._speedups import apitypes, links, podphase, pods, quantities, requirements, structs
from propfan.engine.taskfiles import read_tasks
from propfan.pluginmachinery import names, readers, secrets, templates
from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.errors import DecodeError, ObjectTooLargeError, PermanentError
from propfan.pluginmachinery.literals import MSGPACK_TAG, literal_text
from propfan.pluginmachinery.loglinks import LogInput, LogLinks, LogsConfig
from propfan.pluginmachinery.podphase import RESULTS
from propfan.pluginmachinery.podspec import schema

T = TypeVar("T")

NOW: Final = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
SEPARATOR: Final = b"\0"
"""Between the parts of an input that has several."""


def outcome(function: Callable[..., Any], arguments: tuple[Any, ...], errors: tuple[str, ...]) -> tuple[str, Any]:
    """What is returned, or the message of an error that may be raised; a twin's errors are classes of its own."""
    try:
        return "value", function(*arguments)
    except ValueError as error:
        if type(error).__name__ not in errors:
            raise
        return type(error).__name__, str(error)


def same(module: ModuleType, function: str, *arguments: Any, errors: tuple[str, ...] = ()) -> tuple[str, Any]:
    """What both twins of a function say."""
    definition = _speedups.pure_twin(module.__name__.rpartition(".")[2])
    expected = outcome(getattr(definition, function), arguments, errors)
    found = outcome(getattr(module, function), arguments, errors)
    assert repr(found) == repr(expected), f"{function}{arguments!r}: {found!r}, by definition {expected!r}"
    return found


def struct(data: bytes) -> None:
    """A serialised ``google.protobuf.Struct``, such as a task's pod."""
    kind, value = same(structs, "to_value", data, errors=("StructError",))
    if kind == "value":
        json.dumps(value, allow_nan=False)
        json_object(msgspec.json.encode(value))


def json_object(data: bytes) -> None:
    """A pod as JSON that is filled in and merged, such as a pod template."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return
    pure = _speedups.pure_twin("apitypes")
    found = outcome(apitypes.decode, (value, schema.POD_SPEC), ("MismatchError",))
    assert repr(found) == repr(outcome(pure.decode, (value, pure_pod_spec()), ("MismatchError",)))
    if found[0] == "value":
        written = found[1]
        assert apitypes.decode(written, schema.POD_SPEC) == written, "a written form is its own written form"
        merged = apitypes.overlay(written, written, schema.POD_SPEC)
        assert merged == pure.overlay(written, written, pure_pod_spec())


@cache
def pure_pod_spec() -> Any:
    return _speedups.pure_twin("apitypes").compile_types(schema.TABLE)["PodSpec"]


def pod(data: bytes) -> None:
    """A pod as JSON, its verdict and its links."""
    for environment in (False, True):
        try:
            decoded = pods.decode(data, environment=environment)
        except msgspec.DecodeError:
            return
        assert pods.decode(pods.encode(decoded), environment=environment) == decoded
        judge(decoded)


def event(data: bytes) -> None:
    """One line of a watch."""
    try:
        kind, decoded = pods.decode_event(data)
    except msgspec.DecodeError:
        return
    assert isinstance(kind, str)
    judge(decoded)


@cache
def rules(module: ModuleType) -> Any:
    minutes = timedelta(minutes=3)
    limits = module.Limits(minutes, "3m0s", timedelta(), "0s", minutes, "3m0s", minutes)
    return module.PodPhases(RESULTS, limits, str.lower)


def judge(decoded: pods.ObservedPod) -> None:
    plan = LogLinks(LINKS).plan(None)
    verdicts = []
    for module in (_speedups.pure_twin("podphase"), podphase):
        logs = rules(module).logs(decoded, plan, None, NOW)
        verdicts.append(repr((logs, rules(module).phase_info(decoded, logs, NOW, 5, 1, "before"))))
    assert verdicts[0] == verdicts[1]
    for function in ("primary_container_name", "is_ready", "is_terminal", "completion_time"):
        same(podphase, function, decoded)
    same(links, "pod_values", decoded, 0, links.ALL, NOW)


LINKS: Final = LogsConfig(
    kubernetes_template_uri="http://h/{{ .podName }}/{{ .containerID }}?{{ .podRFC3339StartTime }}&{{.podUnixStartTime}}"
)


def quantity(data: bytes) -> None:
    """Amounts of resources: two of them, and the first one as what a container asks for."""
    left, _, right = data.decode("utf-8", "surrogateescape").partition("\0")
    errors = ("QuantityError",)
    for function in ("canonical", "settled", "nanos", "is_zero"):
        same(quantities, function, left, errors=errors)
    kind, sign = same(quantities, "compare", left, right, errors=errors)
    if kind == "value":
        assert sign == -quantities.compare(right, left)
        assert quantities.nanos(quantities.settled(left)) == quantities.nanos(left)
    resolved = [
        outcome(module.resolve, ({"cpu": left}, {"memory": right}, {}, {"cpu": "4"}, frozenset(("cpu",)), True), errors)
        for module in (_speedups.pure_twin("requirements"), requirements)
    ]
    assert resolved[0] == resolved[1]


def template(data: bytes) -> None:
    """Command lines and link templates with placeholders; what is after the first part are values."""
    first, _, rest = data.decode("utf-8", "replace").partition("\0")
    value, _, given = rest.partition("\0")
    inputs = literals_pb2.LiteralMap(literals={"x": text_literal(given), given[:8]: text_literal(value)})
    paths = IOPaths("s3://in", value, "s3://in", given, "", "s3://c", "", "", "", "s3://t")
    parameters = templates.TemplateParameters(given, value, paths, inputs)
    compiled = templates.compile_templates((first, value))
    values = templates._values(parameters)
    values[templates._UNIQUE_KEY] = templates._unique_key(given)
    ways: tuple[Callable[[], list[str]], ...] = (
        lambda: compiled.render(parameters),
        lambda: [templates._replaced(string, values, inputs) for string in (first, value)],
    )
    results = []
    for render in ways:
        try:
            results.append(repr(render()))
        except PermanentError as error:
            results.append(str(error))
    assert results[0] == results[1], "filling is replacing"
    plan = LogLinks(LogsConfig(kubernetes_template_uri=first)).plan(None)
    log = LogInput(pod_name=value, namespace=given, log_name="log")
    assert plan.render(log) == plan.substitute(log.values(), has_debugger=False), "filling is replacing"


def text_literal(text: str) -> literals_pb2.Literal:
    return literals_pb2.Literal(scalar=literals_pb2.Scalar(primitive=literals_pb2.Primitive(string_value=text)))


def secret(data: bytes) -> None:
    """Annotations that name secrets: the text as it is, and as what the text encodes."""
    key = f"{secrets.ANNOTATION_PREFIX}0"
    for encoded in (data.decode("utf-8", "replace"), names.base32_encode(data)):
        try:
            found = secrets.from_annotations({key: encoded})
            again = secrets.to_annotations(found)
        except (DecodeError, PermanentError):
            continue
        assert secrets.from_annotations(again) == found
    assert names.base32_decode(names.base32_encode(data)) == data


class Stored:
    """A store that holds one object."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def get(self, path: str, *, limit_bytes: int) -> bytes:
        if len(self._content) > limit_bytes:
            raise ObjectTooLargeError(path, len(self._content), limit_bytes)
        return self._content


def error_document(data: bytes) -> None:
    """What a failed task leaves behind: always a failure to tell. And inputs, which are told to be none."""
    paths: Any = SimpleNamespace(error="s3://o/error.pb")
    store: Any = Stored(data)
    document = result_of(readers.RemoteOutputReader(store, paths, limit_bytes=64).read_error())
    assert document is not None
    assert isinstance(msgspec.json.encode(document.error.message), bytes)
    assert document.error.error_uri == paths.error
    try:
        readers.literal_map(data, "s3://i/inputs.pb")
    except DecodeError:
        return


def result_of(work: Coroutine[Any, Any, T]) -> T:
    """Of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    raise AssertionError("it waits")


def literal(data: bytes) -> None:
    """The text of an input: of the bytes as MessagePack, and of the literal that they serialise."""
    found = [literals_pb2.Literal(scalar=literals_pb2.Scalar(binary=literals_pb2.Binary(value=data, tag=MSGPACK_TAG)))]
    with contextlib.suppress(DecodeError):
        found += readers.literal_map(data, "i").literals.values()
    for one in found:
        try:
            literal_text(one).encode()
        except PermanentError:
            continue


def task_file(data: bytes) -> None:
    """A file of tasks, in the format that the first byte chooses, and one of inputs after the separator."""
    suffixes = (".yaml", ".json", ".pb")
    content, is_separated, inputs = data[1:].partition(SEPARATOR)
    task = folder() / f"task{suffixes[data[0] % 3 if data else 0]}"
    given = folder() / f"inputs{suffixes[data[0] // 3 % 3 if data else 0]}"
    task.write_bytes(content)
    given.write_bytes(inputs)
    try:
        found = read_tasks(task, inputs=given if is_separated else None)
    except DecodeError:
        return
    for one in found:
        tasks_pb2.TaskTemplate.FromString(one.template)


@cache
def folder() -> Path:
    held = tempfile.TemporaryDirectory(prefix="propfan-fuzz-")
    _FOLDERS.append(held)
    return Path(held.name)


_FOLDERS: Final[list[tempfile.TemporaryDirectory[str]]] = []
"""Removed when the process ends."""
