"""Tasks out of files: ``core.TaskTemplate`` as protobuf, or as its JSON written in JSON or YAML.

A YAML file may hold several documents, each one a task.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from flyteidl2.core import tasks_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import EncodeError as ProtobufEncodeError

from propfan.engine.documents import Document, Problems, message_of, read_documents
from propfan.engine.task_inputs import check_inputs, inputs_of
from propfan.pluginmachinery.errors import ConfigError, DecodeError

__all__ = ["FILE_LIMIT_BYTES", "TEMPLATE_LIMIT_BYTES", "TaskFile", "read_tasks"]

TEMPLATE_LIMIT_BYTES: Final = 1024 * 1024
"""Of one serialised template: it has to fit an object of Kubernetes, which etcd limits to 1.5 MiB."""
FILE_LIMIT_BYTES: Final = 4 * 1024 * 1024
_SUFFIXES: Final = (".pb", ".json", ".yaml", ".yml")
_POD_TYPES: Final = frozenset({"container", "python", "python-task", "raw-container", "sidecar"})
"""Types that run in a pod of their own, and so need one described."""
_RETRY_LIMIT: Final = 1000


class TaskFile(msgspec.Struct, frozen=True):
    """A task that can be submitted.

    Attributes:
        source: The file, with ``[n]`` after it when it holds several tasks.
        template: Serialised ``core.TaskTemplate``.
        inputs: Serialised ``flyteidl2.task.Inputs``; ``None`` when the task has none.
    """

    source: str
    name: str
    task_type: str
    template: bytes
    inputs: bytes | None = None


def read_tasks(
    path: Path,
    *,
    inputs: Path | None = None,
    retries: int | None = None,
    timeout_s: float | None = None,
) -> Sequence[TaskFile]:
    """All tasks of a file, in their order.

    Args:
        path: ``.pb``, ``.json``, ``.yaml`` or ``.yml``.
        inputs: A file of names and values, or of serialised inputs (``.pb``); for every task.
        retries: Replaces ``metadata.retries.retries``: attempts after the first one.
        timeout_s: Replaces ``metadata.timeout``: how long an attempt may run.

    Raises:
        DecodeError: a file can not be read or is not a task; names every field at fault.
        ConfigError: ``retries`` or ``timeout_s`` is out of range.
    """
    if retries is not None and not 0 <= retries <= _RETRY_LIMIT:
        raise ConfigError("retries", f"must be 0 to {_RETRY_LIMIT}, is {retries}")
    if timeout_s is not None and not (math.isfinite(timeout_s) and 0 < timeout_s < 10**9):
        raise ConfigError("timeout", f"must be more than 0 seconds, is {timeout_s:g}")
    templates = _read_templates(path)
    given = _read_inputs(inputs) if inputs is not None else None
    tasks = []
    for source, template in templates.items():
        _check(source, template)
        if retries is not None:
            template.metadata.retries.retries = retries
        if timeout_s is not None:
            template.metadata.timeout.FromNanoseconds(round(timeout_s * 1_000_000_000))
        tasks.append(_task(source, template, given))
    return tasks


def _task(source: str, template: tasks_pb2.TaskTemplate, given: Document | None) -> TaskFile:
    try:
        serialised = template.SerializeToString(deterministic=True)
        tasks_pb2.TaskTemplate.FromString(serialised)
    except (ProtobufEncodeError, ProtobufDecodeError) as error:
        raise DecodeError(source, "nested more deeply than protobuf can carry") from error
    if len(serialised) > TEMPLATE_LIMIT_BYTES:
        problem = f"the template has {len(serialised)} bytes, the limit is {TEMPLATE_LIMIT_BYTES}: move data to inputs"
        raise DecodeError(source, problem)
    if given is None:
        given = Document(source, {})
    if isinstance(given.value, bytes):
        inputs = check_inputs(given.source, given.value, template.interface)
    else:
        inputs = inputs_of(given, template.interface)
    return TaskFile(source, template.id.name, template.type, serialised, inputs or None)


def _read_templates(path: Path) -> Mapping[str, tasks_pb2.TaskTemplate]:
    content, suffix = _read(path, "task")
    if suffix == ".pb":
        try:
            template = tasks_pb2.TaskTemplate.FromString(content)
        except ProtobufDecodeError as error:
            problem = f"not a serialised flyteidl2.core.TaskTemplate: {error}"
            raise DecodeError(str(path), problem) from error
        return {str(path): template}
    documents = read_documents(str(path), content, is_json=suffix == ".json")
    return {document.source: message_of(document, tasks_pb2.TaskTemplate) for document in documents}


def _read_inputs(path: Path) -> Document:
    content, suffix = _read(path, "inputs", may_be_empty=True)
    if suffix == ".pb":
        return Document(str(path), content)
    if not content.strip():
        return Document(str(path), {})
    documents = read_documents(str(path), content, is_json=suffix == ".json")
    if len(documents) > 1:
        raise DecodeError(str(path), f"has {len(documents)} documents: inputs are a single one")
    return documents[0]


def _read(path: Path, what: str, *, may_be_empty: bool = False) -> tuple[bytes, str]:
    """Content and suffix of a regular file of bounded size."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise DecodeError(str(path), f"the name of a file of {what} must end with one of {', '.join(_SUFFIXES)}")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(str(path), "not a regular file")
        if status.st_size > FILE_LIMIT_BYTES:
            raise DecodeError(str(path), f"has {status.st_size} bytes, the limit is {FILE_LIMIT_BYTES}")
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DecodeError(str(path), f"can not be read: {reason}") from error
    if not content and not may_be_empty:
        raise DecodeError(str(path), "empty")
    return content, suffix


def _check(source: str, template: tasks_pb2.TaskTemplate) -> None:
    """Refuses a template that lacks what every run needs, naming all that is missing."""
    missing = [name for name, value in (("id.name", template.id.name), ("type", template.type)) if not value]
    problems = Problems(source)
    target = template.WhichOneof("target")
    if target == "container" and not template.container.image:
        missing.append("container.image")
    elif target == "k8s_pod" and not template.k8s_pod.pod_spec.fields["containers"].list_value.values:
        missing.append("k8s_pod.pod_spec.containers")
    elif target is None and template.type in _POD_TYPES:
        missing.append("container or k8s_pod")
    for side in ("inputs", "outputs"):
        names = set()
        for n, entry in enumerate(getattr(template.interface, side).variables):
            at = f"interface.{side}.variables[{n}]"
            missing += [f"{at}.key"] if not entry.key else []
            missing += [f"{at}.value.type"] if not entry.value.type.WhichOneof("type") else []
            if entry.key in names:
                problems.add(f"{at}.key: '{entry.key}' is declared twice")
            names.add(entry.key)
    if template.metadata.timeout.ToNanoseconds() < 0:
        problems.add("metadata.timeout: must not be negative")
    if missing:
        problems.add(f"missing: {', '.join(missing)}")
    problems.raise_any()
