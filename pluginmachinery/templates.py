"""Command and argument templates: ``a0 --inputs {{.input}} --outputs-path {{.outputPrefix}}``.

A placeholder is ``{{``, perhaps blanks, ``.`` or ``$``, a name in any case, perhaps blanks, ``}}``:

==========================  ======================================================================
``Input``                   URI of ``inputs.pb``
``OutputPrefix``            where the attempt writes
``InputPrefix``             directory of the inputs
``RawOutputDataPrefix``     where large values go
``PrevCheckpointPrefix``    the checkpoint of the attempt before; ``""``, two quotes, when none
``CheckpointOutputPrefix``  where this attempt puts its own
``PerRetryUniqueKey``       the generated name as an identifier
``TaskTemplatePath``        URI of the serialised task template
``Namespace``               of the pod
``Inputs.<name>``           an input's text; this name in its own case
==========================  ======================================================================

They are replaced one kind after the other, in that order, so that a value may hold placeholders of a
later kind. Values go in as they are. Anything else in braces stays, e.g. ``{{.runName}}``, which the
Flyte SDK itself resolves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from propfan._speedups import templating
from propfan.pluginmachinery.contexts import IOPaths
from propfan.pluginmachinery.errors import DecodeError, PermanentError, TransientError
from propfan.pluginmachinery.literals import literal_text

if TYPE_CHECKING:
    from flyteidl2.core.literals_pb2 import LiteralMap

_NAMES: Final = (
    "Input",
    "OutputPrefix",
    "InputPrefix",
    "RawOutputDataPrefix",
    "PrevCheckpointPrefix",
    "CheckpointOutputPrefix",
    "PerRetryUniqueKey",
    "TaskTemplatePath",
    "Namespace",
)
_INPUT_USES_FROM: Final = len(_NAMES)
_UNIQUE_KEY: Final = _NAMES.index("PerRetryUniqueKey")
_TASK_TEMPLATE_PATH: Final = _NAMES.index("TaskTemplatePath")

_NO_PREVIOUS_CHECKPOINT: Final = '""'
_NO_KEY_START: Final = re.compile(r"\A[^a-zA-Z_]+")
_NO_KEY_PART: Final = re.compile(r"[^a-zA-Z0-9_]+")

# Unlike IGNORECASE this folds what Unicode calls simple folding and no more: the long s and the
# Kelvin sign are letters of these names, the dotless i is not.
_FOLDS: Final = {"s": "\N{LATIN SMALL LETTER LONG S}", "k": "\N{KELVIN SIGN}"}
_BLANKS: Final = r"[\t\n\f\r ]*"


def _any_case(name: str) -> str:
    return "".join(f"[{c.lower()}{c.upper()}{_FOLDS.get(c.lower(), '')}]" for c in name)


def _placeholder(name: str) -> str:
    return rf"\{{\{{{_BLANKS}[.$]{name}{_BLANKS}\}}\}}"


# Bounded, so that text full of unclosed placeholders is searched in linear time. No input's name is as long.
_INPUT_NAME: Final = rf"{_any_case('Inputs')}\.([^}}\t\n\f\r ]{{1,256}}+)"
_ROWS: Final = tuple(re.compile(_placeholder(_any_case(name))) for name in _NAMES)
_INPUT_ROW: Final = re.compile(_placeholder(_INPUT_NAME))
_ANY_ROW: Final = re.compile(_placeholder("(?:" + "|".join(f"({_any_case(n)})" for n in _NAMES) + f"|{_INPUT_NAME})"))


class TemplateParameters(msgspec.Struct, frozen=True):
    """What the placeholders of one attempt stand for.

    Attributes:
        generated_name: Of the attempt.
        namespace: Of its pod.
        paths: ``None`` when the attempt has no storage; then only an empty list can be rendered.
        inputs: ``None`` when there are none or none were needed; an error when they can not be read,
            which matters only to a string that asks for one.
    """

    generated_name: str
    namespace: str
    paths: IOPaths | None
    inputs: LiteralMap | Exception | None = None


class InputUse(msgspec.Struct, frozen=True):
    """An input's placeholder as it is written, ``{{.inputs.x}}``."""

    name: str
    placeholder: str


class CompiledTemplates(msgspec.Struct, frozen=True):
    """Strings that were searched for placeholders once; see `compile_templates`.

    Attributes:
        strings: As they were given.
        plan: For `templating.fill`; ``None`` when only replacing one kind after the other will do.
        used: Indexes of the values that ``plan`` asks for, but inputs.
        input_uses: What the indexes after those of the other values ask for.
        needs_inputs: Some string may name an input, so that they have to be read.
        needs_task_template_path: Some string may name the template's URI, so that it has to be stored.
            Placeholders inside of storage paths count for neither.
    """

    strings: tuple[str, ...]
    plan: tuple[str | int | templating.Segments, ...] | None
    used: tuple[int, ...]
    input_uses: tuple[InputUse, ...]
    needs_inputs: bool
    needs_task_template_path: bool

    def render(self, parameters: TemplateParameters) -> list[str]:
        """The strings with their placeholders replaced.

        Raises:
            PermanentError: an input does not exist or has no text, the template was not stored, or the
                attempt has no storage; without a code.
            TransientError: the inputs can not be read; without a code.
        """
        if not self.strings:
            return []
        values = _values(parameters)
        inputs = parameters.inputs
        is_plain = self.plan is not None and templating.are_plain(self.used, values)
        if not is_plain or _UNIQUE_KEY in self.used:
            values[_UNIQUE_KEY] = _unique_key(parameters.generated_name)
        if self.plan is not None and is_plain:
            if not self.input_uses:
                return templating.fill(self.plan, values)
            if not isinstance(inputs, Exception):
                texts = _input_texts(self.input_uses, inputs)
                if texts is not None:
                    return templating.fill(self.plan, values + texts)
        return [_replaced(string, values, inputs) for string in self.strings]


def compile_templates(strings: Iterable[str]) -> CompiledTemplates:
    """Search ``strings`` for placeholders. Worth keeping: all tasks of a template share the result."""
    strings = tuple(strings)
    plan: list[str | int | templating.Segments] = []
    input_uses: list[InputUse] = []
    can_be_filled = True
    for string in strings:
        segments = _segments(string, input_uses)
        # What is left of the braces could become a placeholder together with a value.
        if len(segments) > 1 and "{{" in "".join([part if isinstance(part, str) else "\0" for part in segments]):
            can_be_filled = False
        plan.append(segments[0] if len(segments) == 1 else segments)
    if any("{" in use.name for use in input_uses):
        can_be_filled = False
    parts = {part for entry in plan for part in (entry if isinstance(entry, tuple) else (entry,))}
    used = sorted(part for part in parts if isinstance(part, int) and part < _INPUT_USES_FROM)
    return CompiledTemplates(
        strings=strings,
        plan=tuple(plan) if can_be_filled else None,
        used=tuple(used),
        input_uses=tuple(input_uses),
        needs_inputs=bool(input_uses) or not can_be_filled,
        needs_task_template_path=_TASK_TEMPLATE_PATH in used or not can_be_filled,
    )


def _segments(string: str, input_uses: list[InputUse]) -> templating.Segments:
    """``string`` cut at its placeholders; those of inputs are appended to ``input_uses``."""
    segments: list[str | int] = []
    end = 0
    for match in _ANY_ROW.finditer(string) if "{{" in string else ():
        if match.start() > end:
            segments.append(string[end : match.start()])
        end = match.end()
        row = (match.lastindex or 0) - 1
        if row == _INPUT_USES_FROM:
            row += len(input_uses)
            input_uses.append(InputUse(match[match.lastindex or 0], match[0]))
        segments.append(row)
    if end < len(string) or not segments:
        segments.append(string[end:])
    return tuple(segments)


def _values(parameters: TemplateParameters) -> list[str]:
    """By row; the generated name still as it is."""
    paths = parameters.paths
    if paths is None:
        raise PermanentError("", "input reader and output path cannot be nil")
    return [
        paths.input,
        paths.output_prefix,
        paths.input_prefix,
        paths.raw_output_prefix,
        paths.previous_checkpoints_prefix or _NO_PREVIOUS_CHECKPOINT,
        paths.checkpoint_prefix,
        parameters.generated_name,
        paths.task_template,
        parameters.namespace,
    ]


def _unique_key(generated_name: str) -> str:
    return _NO_KEY_PART.sub("_", _NO_KEY_START.sub("a", generated_name))


def _input_texts(uses: Sequence[InputUse], inputs: LiteralMap | None) -> list[str] | None:
    """The text of each; ``None`` when one has none, so that there is an error to tell."""
    if inputs is None or not inputs.literals:
        return [use.placeholder for use in uses]
    try:
        return [_input_text(use.name, inputs) for use in uses]
    except PermanentError:
        return None


def _input_text(name: str, inputs: LiteralMap) -> str:
    # Looking up a name that a map of messages does not have would add it.
    if name not in inputs.literals:
        raise PermanentError("", f"requested input is not found [{name}]")
    try:
        return literal_text(inputs.literals[name])
    except PermanentError as error:
        raise PermanentError("", f"failed to bind a value to inputName [{name}]: {error}") from error


def _replaced(text: str, values: Sequence[str], inputs: LiteralMap | Exception | None) -> str:
    """One string the long way: each kind of placeholder on what the ones before it left."""
    for row, value in zip(_ROWS, values, strict=True):
        if "{{" not in text:
            return text
        if row is _ROWS[_TASK_TEMPLATE_PATH] and not value and row.search(text):
            raise PermanentError("", "no task template path")
        text = row.sub(value.replace("\\", r"\\"), text)
    uses = list(_INPUT_ROW.finditer(text))
    if not uses:
        return text
    if isinstance(inputs, Exception):
        kind = PermanentError if isinstance(inputs, DecodeError) else TransientError
        raise kind("", f"unable to read inputs: {inputs}") from inputs
    if inputs is None or not inputs.literals:
        return text
    problems: list[str] = []

    def bound(use: re.Match[str]) -> str:
        try:
            return _input_text(use[1], inputs)
        except PermanentError as error:
            problems.append(f"{len(problems)}: input template [{use[0]}]: {error}\r\n")
            return ""

    text = _INPUT_ROW.sub(bound, text)
    if problems:
        raise PermanentError("", "".join(problems))
    return text
