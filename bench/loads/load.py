"""What a load is: a name, what it yields, and how it is measured on a program that runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from bench.peers.peer import Running, Stage
from bench.routes import LOOPBACK, Route

Better = Literal["more", "less"]
BYTES = "bytes"
"""A load may yield the bytes that it carried under this key: CPU seconds a GB come of it. All of them: the
CPU is that of the whole load, whenever its clock starts.
"""


class LoadFailed(Exception):
    """The program did not carry the load; one line."""


@dataclass(frozen=True)
class Figure:
    """One number that a load yields, and how people read it."""

    key: str
    title: str  # a column's head
    unit: str
    better: Better
    headline: bool = True  # it has a column in the table, and ratios; the others are in the JSON only


@dataclass(frozen=True)
class Trial:
    """One program, running, and how long to load it."""

    stage: Stage
    running: Running
    quick: bool

    @property
    def seconds(self) -> float:
        """For whatever is measured for a time."""
        return 0.2 if self.quick else 2.0

    def count(self, full: int) -> int:
        """For whatever is measured by number: less when it has to be quick."""
        return max(1, full // 10) if self.quick else full


@dataclass(frozen=True)
class Load:
    """One load. `measure` raises LoadFailed or OSError."""

    name: str
    figures: tuple[Figure, ...]
    measure: Callable[[Trial], Mapping[str, float]]
    route: Route = LOOPBACK
    alone: bool = False  # it starts this project's server itself, and is for no other program
    once: bool = False  # one round has to be enough: it is long, and the line decides more than the program
    patience: int = 1  # it may take that many times as long as others
    both_builds: bool = False  # it tells what compiling changes: our other build is put under it, too
    interpreted: bool = False  # it is alone, and starts our interpreted build, whichever is measured
