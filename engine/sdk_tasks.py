"""Tasks written with Flyte's SDK, without a control plane: to templates and inputs, and back from outputs.

Needs the ``flyte`` extra. The code of a task is not copied: its container imports it from where it
is now, so these tasks run on this machine.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from flyte._internal.runtime import convert, task_serde
from flyte._task import AsyncFunctionTaskTemplate, TaskTemplate
from flyte.models import SerializationContext
from flyteidl2.task import common_pb2
from google.protobuf.message import DecodeError as ProtobufDecodeError

from propfan.engine.taskfiles import TaskFile
from propfan.pluginmachinery.errors import ConfigError, DecodeError

__all__ = ["LOCAL_ENVIRONMENT", "read_outputs", "task_of"]

LOCAL_ENVIRONMENT: Final[Mapping[str, str]] = {
    "DO_NOT_TRACK": "1",  # https://donottrack.sh; the SDK would report crashes to its makers
}
"""What containers of these tasks are given beside the task's own variables, which win."""


async def task_of(
    task: TaskTemplate[Any, Any, Any],
    *args: Any,
    project: str = "local",
    domain: str = "development",
    version: str = "local",
    **kwargs: Any,
) -> TaskFile:
    """One call of a task as something that can be submitted; defaults are filled in by the SDK.

    Args:
        task: A function with the SDK's ``@env.task`` in a file that can be imported, or a ``ContainerTask``.
        args, kwargs: What the task is called with.

    Raises:
        ConfigError: the task can not be loaded elsewhere, or the SDK refuses it or an argument.
    """
    variables = {**LOCAL_ENVIRONMENT, **(task.env_vars or {})}
    root = Path.cwd()
    if isinstance(task, AsyncFunctionTaskTemplate):
        root = _import_root(task)
        variables["PYTHONPATH"] = ":".join(filter(None, [str(root), variables.get("PYTHONPATH")]))
    try:
        local = task.override(env_vars=variables)
        context = SerializationContext(version=version, project=project, domain=domain, root_dir=root)
        template = task_serde.translate_task_to_wire(local, context).task_template
        inputs = (await convert.convert_from_native_to_inputs(task.native_interface, *args, **kwargs)).proto_inputs
    except (AssertionError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        # What the SDK and its type transformers raise; RuntimeError is the base of its own errors.
        raise ConfigError(f"task {task.name}", str(error) or type(error).__name__) from error
    return TaskFile(
        source=str(root),
        name=task.name,
        task_type=template.type,
        template=template.SerializeToString(deterministic=True),
        inputs=inputs.SerializeToString(deterministic=True),
    )


async def read_outputs(task: TaskTemplate[Any, Any, Any], content: bytes) -> Any:
    """What the task returned, as the SDK's types: ``None``, one value or a tuple.

    Args:
        content: Of the attempt's ``outputs.pb``.

    Raises:
        DecodeError: they are not outputs of this task.
    """
    what = f"outputs of {task.name}"
    try:
        outputs = common_pb2.Outputs.FromString(content)
    except ProtobufDecodeError as error:
        raise DecodeError(what, f"not a serialised flyteidl2.task.Outputs: {error}") from error
    if missing := set(task.native_interface.outputs) - {literal.name for literal in outputs.literals}:
        raise DecodeError(what, f"not there: {', '.join(sorted(missing))}")
    try:
        return await convert.convert_outputs_to_native(task.native_interface, convert.Outputs(proto_outputs=outputs))
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DecodeError(what, str(error) or type(error).__name__) from error


def _import_root(task: AsyncFunctionTaskTemplate[Any, Any, Any]) -> Path:
    """The folder from which the function's module can be imported."""
    module = sys.modules.get(task.func.__module__)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        problem = "is not defined in a file, so that its container can not import it: move it to a module"
        raise ConfigError(f"task {task.name}", problem)
    spec = module.__spec__
    name = spec.name if spec is not None else Path(file).stem
    is_package = Path(file).name == "__init__.py"
    return Path(file).resolve().parents[name.count(".") + is_package]
