"""From samples to numbers for people: medians with their spread, and ratios to another peer."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.results import Results


@dataclass(frozen=True)
class Spread:
    """A figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


class Summary:
    """Answers about one run."""

    def __init__(self, results: Results) -> None:
        self._figures: dict[tuple[str, str, str], dict[int, float]] = {}
        self._failures: dict[tuple[str, str], str] = {}
        for sample in results.samples:
            if sample.failed:
                self._failures[sample.peer, sample.load] = sample.why
            for key, value in sample.figures.items():
                self._figures.setdefault((sample.peer, sample.load, key), {})[sample.round] = value

    def spread(self, peer: str, load: str, key: str) -> Spread | None:
        """The figure over all rounds that yielded it; None if none did."""
        values = self._figures.get((peer, load, key))
        return Spread.of(list(values.values())) if values else None

    def ratio(self, peer: str, to: str, load: str, key: str) -> float | None:
        """How many times the other's: the median over the rounds that both have.

        Round by round, because within one the machine is about as fast for both.
        """
        own, other = (self._figures.get((each, load, key), {}) for each in (peer, to))
        ratios = [own[number] / other[number] for number in own if other.get(number)]
        return median(ratios) if ratios else None

    def failure(self, peer: str, load: str) -> str | None:
        """Why the load failed the last time that it did; None if it never did."""
        return self._failures.get((peer, load))
