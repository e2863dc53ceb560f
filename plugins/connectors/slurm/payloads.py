"""What tasks of both types send, and the job that it means.

``sbatch_config`` and arguments become single words of a command line; no shell looks into them.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec
from flyteidl2.core import types_pb2

from propfan.pluginmachinery.connector import Blob, TaskRequest
from propfan.pluginmachinery.errors import BadTaskSpecificationError
from propfan.plugins.connectors.slurm.connections import Address

FUNCTION_TYPE: Final = "slurm_fn"
PLACEHOLDER: Final = "{task.fn}"
FUNCTION_SCRIPT: Final = f"#!/bin/bash -i\n{PLACEHOLDER}\n"
"""Interactive, so that it has the user's ``PATH``; as Flyte's SDK."""

_SHEBANG: Final = "#!/bin/bash\n"
_OPTION: Final = re.compile(r"[a-z][a-z0-9-]*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_INPUT: Final = re.compile(r"\{\s*(inputs|outputs)\.(\w+)\s*\}")
_PLAIN: Final = re.compile(r"[\w @%+=:,./^-]*")
_REFUSED: Final[Mapping[str, str]] = {
    "array": "makes many jobs of one task; use a map task",
    "clusters": "is not supported; name a login node of the cluster in ssh_config.host",
    "help": "submits nothing",
    "parsable": "is set by the connector",
    "quiet": "hides the job's id",
    "test-only": "submits nothing",
    "uid": "is the user of ssh_config.username",
    "usage": "submits nothing",
    "version": "submits nothing",
    "wait": "would hold the connection until the job's end",
    "wrap": "takes the place of the script; set script instead",
}


class SshConfig(msgspec.Struct, frozen=True):
    """``ssh_config``. Other members are options of the SDK's SSH library; the connector has its own."""

    host: str
    port: int | str = 0
    username: str | None = None
    client_keys: str | Sequence[str] | None = None

    def address(self) -> Address:
        keys = [self.client_keys] if isinstance(self.client_keys, str) else self.client_keys or ()
        port = int(self.port) if str(self.port).isascii() and str(self.port).isdigit() else -1
        return Address(self.host, port, self.username or "", tuple(keys))


class OutputLocation(msgspec.Struct, frozen=True):
    """One of ``output_locs``: a file or folder that the script leaves."""

    var: str
    location: str


class SlurmSpec(msgspec.Struct, frozen=True):
    """``custom`` of both task types; numbers are taken where the SDK's users write them."""

    ssh_config: SshConfig
    sbatch_config: Mapping[str, str | int | float | bool | None] | None = None
    batch_script_path: str | None = None
    batch_script_args: Sequence[str | int | float] | None = None
    script: str | None = None
    output_locs: Sequence[OutputLocation] | None = None


class Submission(msgspec.Struct, frozen=True):
    """A job that can be handed to ``sbatch``.

    Attributes:
        options: Words for ``sbatch``, but not those that find the job again.
        job_name: The user's; empty when there is none.
        comment: Likewise.
        script_path: On the cluster; empty when ``script`` is the script.
        outputs: What the job leaves, by the name of the output.
    """

    address: Address
    options: Sequence[str]
    job_name: str
    comment: str
    script_path: str
    script: str
    arguments: Sequence[str]
    outputs: Mapping[str, Blob | str]


def submission(task: TaskRequest) -> Submission:
    """The job that the task asks for.

    Raises:
        BadTaskSpecificationError: there can be none; names the field.
    """
    spec = task.custom(SlurmSpec)
    address = spec.ssh_config.address()
    if problem := address.problem():
        _refuse(task, problem)
    config = {name.replace("_", "-"): value for name, value in (spec.sbatch_config or {}).items()}
    texts = _Texts(task, spec)
    script, script_path = _script(task, spec, texts)
    return Submission(
        address,
        [*_options(task, config)],
        _word(task, config, "job-name"),
        _word(task, config, "comment"),
        script_path,
        script,
        [texts.fill(str(argument), "batch_script_args") for argument in spec.batch_script_args or ()],
        texts.outputs,
    )


def _script(task: TaskRequest, spec: SlurmSpec, texts: _Texts) -> tuple[str, str]:
    """The script's text, or else its path on the cluster."""
    if task.template.type == FUNCTION_TYPE:
        script = FUNCTION_SCRIPT if spec.script is None else spec.script
        if PLACEHOLDER not in script:
            _refuse(task, f"script must say with {PLACEHOLDER} where the task's function runs")
        return _runnable(task, script).replace(PLACEHOLDER, _entrypoint(task)), ""
    if spec.batch_script_path and spec.script is not None:
        _refuse(task, "has both batch_script_path and script; the job can have one of them")
    if spec.batch_script_path:
        if _CONTROL.search(spec.batch_script_path) or spec.batch_script_path.startswith("-"):
            _refuse(task, "batch_script_path must be the path of a script on the cluster")
        return "", spec.batch_script_path
    if spec.script is None:
        _refuse(task, "needs batch_script_path (a script on the cluster) or script (its text)")
    return _runnable(task, texts.fill(spec.script, "script", is_script=True)), ""


def _runnable(task: TaskRequest, script: str) -> str:
    """As ``sbatch`` takes it: its first line names an interpreter. Code in Python is often indented."""
    text = textwrap.dedent(script).lstrip()
    if not text or "\0" in text:
        _refuse(task, "script must be the text of a batch script")
    return (text if text.startswith("#!") else _SHEBANG + text).replace("\r\n", "\n")


def _entrypoint(task: TaskRequest) -> str:
    """The task's command, with its variables. Flytekit's ends with 0 after an error unless it is told not to."""
    container = task.template.container
    words = [*container.command, *container.args]
    if not words:
        _refuse(task, "container.args must say what runs the task's function")
    variables = {"FLYTE_FAIL_ON_ERROR": "true", **{pair.key: pair.value for pair in container.env}}
    return shlex.join(["env", *(f"{name}={value}" for name, value in variables.items() if name), *words])


def _options(task: TaskRequest, config: Mapping[str, Any]) -> Sequence[str]:
    options = []
    for name, value in sorted(config.items()):
        if not _OPTION.fullmatch(name):
            _refuse(task, f"sbatch_config.{name[:100]} is no long option of sbatch; write them as 'cpus-per-task'")
        if name in _REFUSED:
            _refuse(task, f"sbatch_config.{name} {_REFUSED[name]}")
        if name in ("job-name", "comment") or value is False:
            continue
        text = "" if value is None or value is True else str(value)
        if _CONTROL.search(text):
            _refuse(task, f"sbatch_config.{name} must be one line of text")
        options.append(f"--{name}={text}" if text else f"--{name}")
    return options


def _word(task: TaskRequest, config: Mapping[str, Any], name: str) -> str:
    value = config.get(name)
    text = "" if value is None or isinstance(value, bool) else str(value).strip()
    if _CONTROL.search(text) or (name == "job-name" and "," in text):
        _refuse(task, f"sbatch_config.{name} must be one line of text without commas: the job is found again by it")
    return text


class _Texts:
    """Fills ``{inputs.x}`` and ``{outputs.x}`` in, where they name something."""

    def __init__(self, task: TaskRequest, spec: SlurmSpec) -> None:
        self._task: Final = task
        self._inputs: Mapping[str, Any] | None = None
        self.outputs: Final[dict[str, Blob | str]] = {}
        variables = {variable.key: variable.value.type for variable in task.template.interface.outputs.variables}
        for wanted in spec.output_locs or ():
            location = self.fill(wanted.location, f"output_locs.{wanted.var}")
            self.outputs[wanted.var] = _output(task, wanted.var, location, variables.get(wanted.var))
        if task.template.type != FUNCTION_TYPE and (missing := sorted(variables.keys() - self.outputs.keys())):
            _refuse(task, f"output_locs must say where the job leaves the outputs {', '.join(missing)}")

    def fill(self, text: str, field: str, *, is_script: bool = False) -> str:
        """Args: is_script: A shell will read it, so only values that mean nothing to one are let in."""

        def value(match: re.Match[str]) -> str:
            kind, name = match.groups()
            if self._inputs is None:
                self._inputs = self._task.inputs()
            known = self._inputs if kind == "inputs" else self.outputs
            if name not in known:
                _refuse(self._task, f"{field} names {match.group()}, which the task does not have")
            found = known[name]
            if not isinstance(found, str | int | float | Blob):
                _refuse(self._task, f"{field} names {match.group()}, which is no text, number or file")
            filled = found.uri if isinstance(found, Blob) else str(found)
            if is_script and not _PLAIN.fullmatch(filled):
                problem = f"{field} names {match.group()}, whose value has characters that mean something to a shell"
                _refuse(self._task, f'{problem}; pass it as one of batch_script_args and use it as "$1"')
            return filled

        filled = _INPUT.sub(value, text)
        if "\0" in filled:
            _refuse(self._task, f"{field} must be text")
        return filled


def _output(task: TaskRequest, name: str, location: str, kind: types_pb2.LiteralType | None) -> Blob | str:
    if kind is None:
        _refuse(task, f"output_locs.{name} is no output of the task")
    if kind.HasField("blob"):
        return Blob(location, kind.blob.format, kind.blob.dimensionality == types_pb2.BlobType.MULTIPART)
    if kind.simple != types_pb2.STRING:
        _refuse(task, f"output {name} must be a file, a folder or a string: the job leaves a path")
    return location


def _refuse(task: TaskRequest, problem: str) -> NoReturn:
    raise BadTaskSpecificationError(f"task '{task.template.id.name}' ({task.template.type}): {problem}")
