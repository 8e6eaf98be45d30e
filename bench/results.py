"""A run's results: what was asked, on which machine, and one entry for each peer, load and round. JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FORMAT = 2
READABLE = (1, FORMAT)  # in 1, samples do not say when they were measured, and with which commit


class ResultsError(Exception):
    """A file holds no results that we can read; one line."""


def now() -> str:
    """The time as results have it: UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class PeerEntry:
    """One program of the run, present or not."""

    name: str
    encrypted: bool
    one_line: str
    version: str = ""
    absent: str = ""  # why it was not measured


@dataclass(frozen=True)
class Sample:
    """One load on one peer in one round: figures, or why there are none."""

    peer: str
    load: str
    round: int
    figures: Mapping[str, float] = field(default_factory=dict)
    failed: str = ""
    measured: str = ""  # when its case began: UTC, ISO 8601, to the second
    commit: str = ""  # of this project (`checkout.commit`)

    @property
    def why(self) -> str:
        """Why it failed, in one line: what went wrong, and a program's last words."""
        lines = [line for line in self.failed.splitlines() if line.strip()]
        return " ... ".join(dict.fromkeys([lines[0], lines[-1]])) if lines else ""


@dataclass
class Results:
    """One run, complete or as far as it came."""

    machine: Mapping[str, object]
    quick: bool
    rounds: int
    peers: list[PeerEntry]
    loads: list[str]
    skipped: dict[str, str] = field(default_factory=dict)
    """Loads that this machine can't carry, and why."""
    samples: list[Sample] = field(default_factory=list)
    date: str = field(default_factory=now)
    complete: bool = False

    def write(self, path: Path) -> None:
        """Write them whole, or leave what was there. Raises OSError."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> "Results":
        """Read what `write` wrote. Raises OSError, ResultsError."""
        try:
            document: dict[str, Any] = json.loads(path.read_text())
            if document.pop("format") not in READABLE:
                raise ResultsError(f"{path}: results of another version of the suite")
            peers = [PeerEntry(**entry) for entry in document.pop("peers")]
            samples = [Sample(**entry) for entry in document.pop("samples")]
            for at in {sample.measured for sample in samples} - {""}:
                datetime.fromisoformat(at)
            return cls(peers=peers, samples=samples, **document)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"{path}: not results of this suite ({error})") from None
