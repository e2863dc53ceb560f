"""The demo's results, drawn in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from flyteidl2.common import phase_pb2
from rich.color import Color
from rich.style import Style
from rich.table import Table
from rich.text import Text

from propfan.engine.control_plane.records import ActionRecord

_SHADES = " .:-=+*#%@"
_INSIDE = (12, 10, 30)
_MISSING = (90, 90, 90)
_GLOW = ((20, 24, 82), (32, 107, 203), (237, 255, 255), (255, 170, 0), (120, 30, 10))
"""From points that escape at once to those that hesitate."""

Row = Sequence[int] | None


def picture(rows: Sequence[Row], columns: int, *, is_coloured: bool) -> Text:
    """Escape times as an image; two rows of pixels are one line of half blocks. ``None`` is a row nobody computed."""
    if not is_coloured:
        return Text("\n".join("?" * columns if row is None else "".join(map(_shade, row)) for row in rows[::2]))
    text = Text()
    for upper, lower in zip_longest(rows[::2], rows[1::2]):
        for column in range(columns):
            style = Style(color=_colour(upper, column), bgcolor=_colour(lower, column))
            text.append("▀", style)
        text.append("\n")
    return text


def _shade(steps: int) -> str:
    return "@" if not steps else _SHADES[min(steps // 2, len(_SHADES) - 2)]


def _colour(row: Row, column: int) -> Color:
    if row is None:
        return Color.from_rgb(*_MISSING)
    steps = row[column]
    if not steps:
        return Color.from_rgb(*_INSIDE)
    position = min((steps / 60) ** 0.5, 1.0) * (len(_GLOW) - 1)
    index = min(int(position), len(_GLOW) - 2)
    share = position - index
    mixed = (low + (high - low) * share for low, high in zip(_GLOW[index], _GLOW[index + 1], strict=True))
    return Color.from_rgb(*mixed)


def summary(functions: Mapping[str, Sequence[ActionRecord]]) -> Table:
    """One line a function: how often it ran, how that ended, and what the first error says."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "actions", "succeeded", "attempts", "ended as"):
        table.add_column(heading, justify="right" if heading in ("actions", "succeeded", "attempts") else "left")
    for name, records in functions.items():
        succeeded = sum(record.phase == phase_pb2.ACTION_PHASE_SUCCEEDED for record in records)
        attempts = sum(record.details.status.attempts for record in records)
        table.add_row(name, str(len(records)), str(succeeded), str(attempts), _endings(records))
    return table


def _endings(records: Sequence[ActionRecord]) -> Text:
    names = {phase_pb2.ActionPhase.Name(record.details.status.phase) for record in records}
    text = Text(", ".join(sorted(name.removeprefix("ACTION_PHASE_") for name in names)))
    text.stylize("green" if names == {"ACTION_PHASE_SUCCEEDED"} else "yellow")
    error = next((record.update.error for record in records if record.update.error.message), None)
    if error is not None:
        text.append(f"  {error.code}: {error.message.strip().splitlines()[0]}", style="dim")
    return text
