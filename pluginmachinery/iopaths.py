"""Where an attempt reads and writes, in an object store.

::

    s3://bucket/x7/org/p/d/r4x/a1/2/          output prefix and raw output prefix of attempt 2
        outputs.pb  error.pb  report.html     what the task leaves behind
        task.pb                               its template, stored when the command asks for it
        _flytecheckpoints/                    its checkpoints
    s3://bucket/x7/org/p/d/r4x/a1/1/_flytecheckpoints/    those of the attempt before

The two characters after the bucket are a shard: object stores split their index by prefix, so that runs
that begin together would otherwise meet on one server.
"""

from __future__ import annotations

from typing import Final

from propfan._speedups import hashing
from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.taskaction import TaskAction

INPUTS_FILE: Final = "inputs.pb"
OUTPUTS_FILE: Final = "outputs.pb"
ERROR_FILE: Final = "error.pb"
REPORT_FILE: Final = "report.html"
TASK_TEMPLATE_FILE: Final = "task.pb"
CHECKPOINT_FOLDER: Final = "_flytecheckpoints"
"""All six as Flyte's SDKs know them."""

_SHARD_DIGITS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def join(prefix: str, *keys: str) -> str:
    """``keys`` below ``prefix``, each without its outer slashes; empty ones leave no trace."""
    below = "/".join([inner for key in keys if (inner := key.strip("/"))])
    return f"{prefix}{below}" if prefix.endswith("/") or not below else f"{prefix}/{below}"


def shard_of(text: str) -> str:
    """One of 1296 two-character shards, evenly spread and always the same for one text."""
    high, low = divmod(hashing.fnv1a_32(text.encode()) % 36**2, 36)
    return _SHARD_DIGITS[high] + _SHARD_DIGITS[low]


def with_shard(uri: str, shard: str) -> str:
    """``uri`` with ``shard`` as the first folder of its bucket; unchanged when it has no bucket.

    A ``file:///`` or ``memory:///`` URI has none: there the first folder is not ours to name.
    """
    scheme, separator, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not separator or not bucket:
        return uri
    return f"{scheme}://{bucket}/{join(shard, key)}"


def attempt_paths(action: TaskAction, attempt: int, *, report_file: str = REPORT_FILE) -> IOPaths:
    """The paths of one attempt.

    ``task_template`` is a path like any other: who runs a command that asks for it writes it first.

    Args:
        attempt: From 1.
        report_file: Name of the deck that the task writes.
    """
    spec = action.spec
    shard = shard_of(f"{action.metadata.namespace}/{action.metadata.name}")
    base = join(with_shard(spec.run_output_base, shard), spec.action_name)
    prefix = f"{base}/{attempt}"
    input_prefix = spec.input_uri.removesuffix(f"/{INPUTS_FILE}").rstrip("/")
    return IOPaths(
        input_prefix=input_prefix,
        output_prefix=prefix,
        raw_output_prefix=prefix,
        input=f"{input_prefix}/{INPUTS_FILE}",
        output=f"{prefix}/{OUTPUTS_FILE}",
        error=f"{prefix}/{ERROR_FILE}",
        deck=f"{prefix}/{report_file}",
        checkpoint_prefix=f"{prefix}/{CHECKPOINT_FOLDER}",
        previous_checkpoints_prefix=f"{base}/{attempt - 1}/{CHECKPOINT_FOLDER}" if attempt > 1 else "",
        task_template=f"{prefix}/{TASK_TEMPLATE_FILE}",
    )
