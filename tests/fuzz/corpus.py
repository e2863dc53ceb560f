"""Inputs of each target to start from, and the pieces that new ones are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from flyteidl2.core import execution_pb2, literals_pb2, security_pb2, tasks_pb2
from google.protobuf import json_format, struct_pb2
from hypothesis import strategies as st

from propfan._speedups import links
from propfan.pluginmachinery import secrets
from tests.fuzz import targets

MAX_BYTES: Final = 4096
"""Of one input: enough for every form, and quick."""

POD: Final[dict[str, Any]] = {
    "metadata": {
        "name": "r-a0-0",
        "namespace": "ns",
        "uid": "u-1",
        "creationTimestamp": "2026-03-14T14:59:26Z",
        "annotations": {"primary_container_name": "r-a0-0"},
    },
    "spec": {
        "hostname": "h",
        "containers": [
            {
                "name": "r-a0-0",
                "image": "python:3.12",
                "env": [{"name": "_F_E_VS", "value": "true"}],
                "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                "ports": [{"containerPort": 8080}],
                "livenessProbe": {"httpGet": {"path": "/", "port": "http"}},
            }
        ],
        "tolerations": [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 30}],
        "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}],
    },
    "status": {
        "phase": "Pending",
        "reason": "Evicted",
        "startTime": "2026-03-14T14:59:26Z",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ContainersNotReady",
                "lastTransitionTime": "0001-01-01T00:00:00Z",
            }
        ],
        "containerStatuses": [
            {
                "name": "r-a0-0",
                "containerID": "containerd://1f",
                "ready": False,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "429 Too Many Requests"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": None}},
            }
        ],
        "initContainerStatuses": [{"name": "i", "state": {"running": {"startedAt": "2026-03-14T14:59:26+01:00"}}}],
    },
}
TASK: Final = """\
id: {name: t, project: p, domain: d, version: v}
type: python-task
metadata: {timeout: 90s, retries: {retries: 2}}
interface:
  inputs: {variables: [{key: x, value: {type: {simple: INTEGER}}}]}
container: &c {image: i, args: ["{{.inputs.x}}"], resources: {requests: [{name: CPU, value: 500m}]}}
"""
LITERALS: Final = literals_pb2.LiteralMap(
    literals={
        "x": json_format.ParseDict({"scalar": {"primitive": {"datetime": "2026-03-14T14:59:26.5Z"}}}, literals_pb2.Literal()),
        "y": json_format.ParseDict({"collection": {"literals": [{"scalar": {"primitive": {"floatValue": 1e22}}}]}}, literals_pb2.Literal()),
    }
)  # fmt: skip
FAILURE: Final = execution_pb2.ErrorDocument(
    error=execution_pb2.ContainerError(
        code="USER:Oops", message="m" * 100, kind=execution_pb2.ContainerError.RECOVERABLE
    )
)
SECRETS: Final = [
    security_pb2.Secret(group="g", key="k\u00e9", mount_requirement=security_pb2.Secret.FILE, env_var="V")
]


class Target(msgspec.Struct, frozen=True):
    """A function that takes any bytes, whole inputs, and pieces."""

    fuzz: Callable[[bytes], None]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]

    def inputs(self) -> st.SearchStrategy[bytes]:
        """Any bytes; words in any order; seeds with some bytes replaced, cut out or put in."""
        pieces = st.one_of(st.sampled_from(self.words), st.binary(max_size=4))
        cuts = st.lists(st.tuples(st.integers(0, MAX_BYTES), st.integers(0, 8), pieces), min_size=1, max_size=4)
        return st.one_of(
            st.binary(max_size=200),
            st.lists(pieces, max_size=24).map(b"".join),
            st.builds(damaged, st.sampled_from(self.seeds), cuts),
        )


def damaged(seed: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, inserted in cuts:
        place = at % (len(seed) + 1)
        seed = seed[:place] + inserted + seed[place + length :]
    return seed


def serialised(value: dict[str, Any]) -> bytes:
    return json_format.ParseDict(value, struct_pb2.Struct()).SerializeToString()


def words_of(value: Any) -> set[bytes]:
    """Names and texts of a JSON value, as they are written."""
    if isinstance(value, dict):
        return {json.dumps(name).encode() + b":" for name in value}.union(*map(words_of, value.values()))
    return set().union(*map(words_of, value)) if isinstance(value, list) else {json.dumps(value).encode()}


JSON_WORDS: Final = (
    *sorted(words_of(POD)),
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"null",
    b'"9999-12-31T23:59:59-23:59"',
    b'"\\ud800"',
    b"1e400",
    b"9" * 400,
    b"[" * 1500,
)
POD_JSON: Final = json.dumps(POD).encode()
EXTREMES: Final = tuple(
    POD_JSON.replace(b"2026-03-14T14:59:26Z", time)
    for time in (b"0001-01-01T00:00:00+23:59", b"9999-12-31T23:59:59-23:59")
)
TAGS: Final = tuple(bytes((number,)) for number in (0x0A, 0x12, 0x1A, 0x11, 0x20, 0x08, 0x2A, 0x32, 0x0B, 0x0C, 0x15))
VARINTS: Final = (
    b"\xff" * 9 + b"\x01",
    b"\x80\x00",
    b"\xff\xff\xff\xff\x0f",
    b"\x7f",
    b"\0" * 8,
    b"\0\0\0\0\0\0\xf0\x7f",
)
PLACEHOLDERS: Final = tuple(
    f"{{{{{space}{sign}{name}{space}}}}}".encode()
    for name in ("input", "outputPrefix", "perRetryUniqueKey", "Inputs.x", "taskTemplatePath", *links.VARIABLES[:4])
    for space, sign in (("", "."), (" ", "$"))
)
MSGPACK: Final = tuple(
    msgspec.msgpack.encode(value) for value in ({"a": [1, -2.5, None, True]}, {1: b"x", "b": "\u00e9"})
)

TARGETS: Final[Mapping[str, Target]] = {
    "struct": Target(targets.struct, (serialised(POD), serialised({"a": [{}, None, 1.5, "x"]})), TAGS + VARINTS),
    "json-object": Target(targets.json_object, (json.dumps(POD["spec"]).encode(), b'{"Containers":[{"NAME":"a"}]}'), JSON_WORDS),
    "pod": Target(targets.pod, (POD_JSON, *EXTREMES, b'{"status":{"phase":"Running"}}'), JSON_WORDS),
    "event": Target(targets.event, (b'{"type":"ADDED","object":' + POD_JSON + b"}\n",), (*JSON_WORDS, b'"object":')),
    "quantity": Target(
        targets.quantity,
        (b"1500m\x001.5Gi", b"1e3\x001E", b"-0.000000001n\x00+9223372036854775807Ki"),
        (*(bytes((byte,)) for byte in b"019+-.nunkMGTPEi\0"), b"000", b"Ki", b"Ei", b"e9", b"E-9", b"999"),
    ),
    "template": Target(
        targets.template,
        (b"{{.input}} {{ $Inputs.x }}\x00v\x00{{.Namespace}}", b"{{{.input}}{{ .podName }}\x00{\x00}"),
        (*PLACEHOLDERS, b"{{", b"}}", b"{", b"}", b"\0", b".", b"\\1", "\u017f\u212a\u0131".encode()),
    ),
    "secret": Target(
        targets.secret,
        (b'key: "a"\nmount_requirement: FILE\n', *(text.encode() for text in secrets.to_annotations(SECRETS).values())),
        (b"group:", b"key:", b"mount_requirement:", b"ANY", b"FILE", b"env_var:", b'"', b"\\377", b"<", b">", b"[", b"]", b"'"),
    ),
    "error-document": Target(
        targets.error_document, (FAILURE.SerializeToString(), LITERALS.SerializeToString(), b""), TAGS + VARINTS
    ),
    "literal": Target(
        targets.literal,
        (*MSGPACK, LITERALS.SerializeToString()),
        (*TAGS, *VARINTS, b"\x91", b"\x81", b"\xca\x7f\x80\0\0", b"\xcb", b"\xc4\x01", b"\xdd\xff\xff\xff\xff", b"\xc7", b"\xd9"),
    ),
    "task-file": Target(
        targets.task_file,
        (b"\0" + TASK.encode() + b"\0x: 3", b"\1" + json.dumps({"type": "sleep", "id": {"name": "t"}}).encode(),
         b"\2" + tasks_pb2.TaskTemplate(type="t").SerializeToString()),
        tuple(line.encode() for line in (*TASK.split(), "*c", "&a", "<<:", "- ", "\n", "---\n", "!!binary ", "? ", "|\n ", "\t", "\0")),
    ),
}  # fmt: skip
