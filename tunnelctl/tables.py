"""Answers as people read them: aligned columns, sizes, spans of time; and times as `--json` has them.

Some of it was written by edges, so nothing that could steer a terminal gets through.
"""

from __future__ import annotations

import datetime
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_QUANTITY = re.compile(r"\d+(\.\d+)?( [A-Za-z]+)?|-")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return aligned lines; columns of quantities are aligned to the right."""
    cells = [list(header), *([show(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [_are_quantities(column[1:]) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]


def _are_quantities(cells: Sequence[str]) -> bool:
    return all(map(_QUANTITY.fullmatch, cells)) and any(cell != "-" for cell in cells)


def show(value: object) -> str:
    """Return a value as one printable word or line; "-" for none."""
    text = "" if value is None else str(value)
    return "".join(c if c.isprintable() else "?" for c in text) or "-"


def size(count: float) -> str:
    """Return bytes as "512 B", "1.5 KiB", "20 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def span(seconds: float) -> str:
    """Return "45s", "3m", "2h 5m", "4d 1h"."""
    minutes = max(0, int(seconds)) // 60
    hours, days = minutes // 60, minutes // 1440
    if days:
        return f"{days}d {hours % 24}h"
    if hours:
        return f"{hours}h {minutes % 60}m"
    return f"{minutes}m" if minutes else f"{max(0, int(seconds))}s"


def iso(moment: datetime.datetime) -> str:
    """Return a time as JSON has it, and as the server writes it: ISO 8601 in UTC, with a Z."""
    return f"{moment.astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def ago(moment: str | None, now: datetime.datetime | None = None) -> str:
    """Return how long ago an ISO 8601 time was; "-" for none."""
    if moment is None:
        return "-"
    now = now or datetime.datetime.now(datetime.UTC)
    return span((now - datetime.datetime.fromisoformat(moment)).total_seconds())
