"""A task's inputs on their way into the store."""

from __future__ import annotations

import hashlib

from flyteidl2.task import common_pb2, task_definition_pb2

from propfan.pluginmachinery import iopaths
from propfan.pluginmachinery.contexts import DataStore


async def store(store: DataStore, folder: str, whole: common_pb2.Inputs) -> str:
    """Stores whole inputs in a folder; where they are then.

    Raises:
        StorageError: the store does not take them now.
    """
    uri = iopaths.join(folder, iopaths.INPUTS_FILE)
    await store.put(uri, whole.SerializeToString(deterministic=True))
    return uri


def with_defaults(task: task_definition_pb2.TaskSpec, given: common_pb2.Inputs) -> common_pb2.Inputs:
    """Whole inputs: what was given, and the task's defaults for the rest."""
    whole = common_pb2.Inputs()
    whole.CopyFrom(given)
    names = {literal.name for literal in given.literals}
    for parameter in task.default_inputs:
        if parameter.name not in names and parameter.parameter.HasField("default"):
            whole.literals.add(name=parameter.name, value=parameter.parameter.default)
    return whole


def hash_of(task: task_definition_pb2.TaskSpec, inputs: common_pb2.Inputs) -> str:
    """Of the inputs that decide on the outputs."""
    ignored = set(task.task_template.metadata.cache_ignore_input_vars)
    counted = sorted(
        (literal.name, literal.value.SerializeToString(deterministic=True))
        for literal in inputs.literals
        if literal.name not in ignored
    )
    digest = hashlib.sha256()
    for name, value in counted:
        digest.update(f"{len(name)}:{name}:{len(value)}:".encode() + value)
    return digest.hexdigest()
