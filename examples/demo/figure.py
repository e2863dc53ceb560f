"""The demo's results, drawn in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from rich.color import Color
from rich.style import Style
from rich.table import Table
from rich.text import Text

from propfan.engine import TaskStatus

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


def summary(groups: Sequence[tuple[str, Sequence[TaskStatus]]]) -> Table:
    """One line a group: how many, how they ended, and what the first error says."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "tasks", "succeeded", "attempts", "ended as"):
        table.add_column(heading, justify="right" if heading in ("tasks", "succeeded", "attempts") else "left")
    for title, statuses in groups:
        succeeded = sum(status.outcome is not None and status.outcome.is_success for status in statuses)
        attempts = sum(status.attempts for status in statuses)
        table.add_row(title, str(len(statuses)), str(succeeded), str(attempts), _endings(statuses))
    return table


def _endings(statuses: Sequence[TaskStatus]) -> Text:
    outcomes = {status.outcome.value for status in statuses if status.outcome is not None}
    error = next((status.error for status in statuses if status.error is not None), None)
    text = Text(", ".join(sorted(outcomes)), style="green" if outcomes == {"Completed"} else "yellow")
    if error is not None:
        first_line = error.message.strip().splitlines()[0] if error.message.strip() else ""
        text.append(f"  {error.code}: {first_line}", style="dim")
    return text
