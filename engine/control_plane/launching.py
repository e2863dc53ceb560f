"""From what a client asks for to a task of the engine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from flyteidl2.common import identifier_pb2
from flyteidl2.core import tasks_pb2
from flyteidl2.task import run_pb2, task_definition_pb2
from flyteidl2.workflow import run_definition_pb2
from google.protobuf import struct_pb2

from propfan.engine.control_plane import progress
from propfan.engine.control_plane.errors import InvalidRequestError
from propfan.engine.control_plane.records import ActionKey, ActionRecord, RunRecord, micros
from propfan.engine.resources.config import QUEUE_LABEL
from propfan.engine.submission import Submission
from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.names import sanitize_label_value
from propfan.pluginmachinery.taskaction import CACHE_OVERWRITE_ANNOTATION

MAX_NAME: Final = 30
"""Characters of a run's and an action's name: the CustomResourceDefinition allows no more."""

_RUN_NAME: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_ACTION_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_RUN_START_TIME: Final = re.compile(r"\{\{\s*[.$]runStartTime\s*\}\}", re.IGNORECASE)
_RAW_DATA_PREFIX: Final = re.compile(r"\{\{\s*[.$]rawOutputDataPrefix\s*\}\}", re.IGNORECASE)


def check_run_name(name: str) -> str:
    """Raises ``InvalidRequestError`` for one that no object can have."""
    if len(name) > MAX_NAME or not _RUN_NAME.fullmatch(name):
        raise InvalidRequestError(
            "run_id.name",
            f"{name!r} must begin with a letter and have at most {MAX_NAME} lower-case letters, digits and '-'",
        )
    return name


def check_action_name(name: str) -> str:
    """Raises ``InvalidRequestError`` for one that no object can have."""
    if len(name) > MAX_NAME or not _ACTION_NAME.fullmatch(name):
        raise InvalidRequestError(
            "action_id.name", f"{name!r} must have 1 to {MAX_NAME} lower-case letters, digits and '-'"
        )
    return name


def digest_of(spec: task_definition_pb2.TaskSpec) -> str:
    return hashlib.sha256(spec.SerializeToString(deterministic=True)).hexdigest()


def new_action(
    run: identifier_pb2.RunIdentifier,
    spec: run_definition_pb2.ActionSpec,
    task: task_definition_pb2.TaskSpec | None,
    *,
    source: int,
    now: datetime,
) -> ActionRecord:
    """A record of an action that waits; one of a trace, which is over already, tells how it ended.

    Args:
        spec: As it was enqueued; ``task.spec`` may be in it and is not kept there.
    """
    kept = run_definition_pb2.ActionSpec()
    kept.CopyFrom(spec)
    kept.ClearField("run_spec")
    if kept.HasField("task"):
        kept.task.ClearField("spec")
    identifier = identifier_pb2.ActionIdentifier(run=run, name=spec.action_id.name)
    details = run_definition_pb2.ActionDetails(id=identifier)
    metadata = details.metadata
    metadata.MergeFrom(run_definition_pb2.ActionMetadata(source=run_definition_pb2.RunSource.Name(source)))
    metadata.parent, metadata.group = spec.parent_action_name, spec.group
    kind = spec.WhichOneof("spec")
    if kind == "task" and task is not None:
        template = task.task_template
        metadata.action_type = run_definition_pb2.ACTION_TYPE_TASK
        metadata.task.id.CopyFrom(task_identifier(template))
        metadata.task.task_type = template.type
        metadata.task.short_name = task.short_name or template.id.name.rpartition(".")[2]
        metadata.environment_name = task.environment.name
        metadata.funtion_name = metadata.task.short_name
    elif kind == "condition":
        metadata.action_type = run_definition_pb2.ACTION_TYPE_CONDITION
        metadata.condition.name = spec.condition.name
        metadata.condition.type.CopyFrom(spec.condition.type)
        details.condition.CopyFrom(spec.condition)
    elif kind == "trace":
        metadata.action_type = run_definition_pb2.ACTION_TYPE_TRACE
        metadata.trace.name = spec.trace.name
        details.trace.CopyFrom(spec.trace.spec)
    update = progress.begin(details, now)
    if kind == "trace":
        progress.recall(details, update, spec.trace)
    return ActionRecord(
        key=ActionKey(run.name, spec.action_id.name),
        parent=spec.parent_action_name,
        position=micros(now),
        task_spec=digest_of(task) if kind == "task" and task is not None else "",
        spec=kept,
        details=details,
        update=update,
        is_submitted=kind == "trace",
    )


def task_identifier(template: tasks_pb2.TaskTemplate) -> task_definition_pb2.TaskIdentifier:
    named = template.id
    return task_definition_pb2.TaskIdentifier(
        org=named.org, project=named.project, domain=named.domain, name=named.name, version=named.version
    )


def submission_of(
    run: RunRecord, record: ActionRecord, task: task_definition_pb2.TaskSpec | None, *, namespace: str
) -> Submission:
    """What the engine is given to run."""
    spec, run_spec = record.spec, run.spec
    is_task = record.kind == "task"
    annotations = dict(run_spec.annotations.values)
    if run_spec.overwrite_cache or run_spec.cache_config.overwrite_cache:
        annotations[CACHE_OVERWRITE_ANNOTATION] = "true"
    template = b""
    if is_task and task is not None:
        template = embed(task.task_template, run, record.key.name).SerializeToString(deterministic=True)
    return Submission(
        template=template,
        condition=None if is_task else spec.condition.SerializeToString(),
        run_name=run.id.name,
        action_name=record.key.name,
        parent_action_name=record.parent or None,
        project=run.id.project,
        domain=run.id.domain,
        namespace=namespace,
        input_uri="" if not is_task else spec.input_uri,
        run_output_base=spec.run_output_base,
        cache_key=spec.task.cache_key.value,
        env_vars={pair.key: pair.value for pair in run_spec.envs.values},
        interruptible=run_spec.interruptible.value if run_spec.HasField("interruptible") else None,
        labels={**_queue_of(run_spec), **run_spec.labels.values},
        annotations=annotations,
        group=spec.group,
    )


def _queue_of(run_spec: run_pb2.RunSpec) -> Mapping[str, str]:
    """The run's queue as a label of its actions."""
    queue = sanitize_label_value(run_spec.queue)
    return {QUEUE_LABEL: queue} if queue else {}


def embed(template: tasks_pb2.TaskTemplate, run: RunRecord, action: str) -> tasks_pb2.TaskTemplate:
    """The template with what only the run knows: when it began, where raw data goes, whom it runs as."""
    made = tasks_pb2.TaskTemplate()
    made.CopyFrom(template)
    start = f"{run.created_at:%Y-%m-%dT%H:%M:%S.%f}Z"
    raw_data = run.spec.raw_data_storage.raw_data_prefix

    def filled(word: str) -> str:
        word = _RUN_START_TIME.sub(start, word)
        return _RAW_DATA_PREFIX.sub(iopaths.join(raw_data, run.id.name, action), word) if raw_data else word

    if made.HasField("container"):
        made.container.args[:] = [filled(word) for word in made.container.args]
        made.container.command[:] = [filled(word) for word in made.container.command]
    elif made.HasField("k8s_pod"):
        for words in _command_lines(made.k8s_pod.pod_spec):
            for number, word in enumerate(words.values):
                if word.HasField("string_value"):
                    words.values[number].string_value = filled(word.string_value)
    account = run.spec.security_context.run_as.k8s_service_account
    if account and not made.security_context.run_as.k8s_service_account:
        made.security_context.run_as.k8s_service_account = account
    return made


def _command_lines(pod_spec: struct_pb2.Struct) -> Iterator[struct_pb2.ListValue]:
    for container in pod_spec.fields["containers"].list_value.values if "containers" in pod_spec.fields else ():
        for field in ("command", "args"):
            if field in container.struct_value.fields:
                yield container.struct_value.fields[field].list_value
