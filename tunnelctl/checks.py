"""One step of the path to a node, judged from the server's answer (`admin.diagnosis_views.DiagnosisView`).

`checks_identity`, `checks_link` and `checks_path` judge; `doctor` walks. None of them knows a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class State(StrEnum):
    """What became of a check."""

    OK = "ok"
    FAILED = "failed"
    WARNING = "warning"
    """Works, or does not matter for the path that was asked for; still worth a word."""
    SKIPPED = "skipped"
    """An earlier step failed that this one needs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One step of the path."""

    name: str
    state: State
    text: str
    remedy: str = ""


def some(names: Sequence[str], shown: int = 5) -> str:
    """The first of them in words, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f", and {more} more" if more > 0 else "")


def read(moment: str) -> datetime:
    """Take a moment of the answer."""
    return datetime.fromisoformat(moment)


def told(moment: str) -> str:
    """A moment of the answer as people read it."""
    return read(moment).strftime("%Y-%m-%d %H:%M:%S UTC")


def new_token(known: dict[str, Any]) -> str:
    """The command that lets the node join again, with the addresses that it has."""
    addresses = [each["address"] for each in known["addresses"]] or ["IP"]
    return f"tunnelctl token create --node {known['name']} " + " ".join(f"--ip {each}" for each in addresses)
