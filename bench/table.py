"""The tables for people, in Markdown: one for each group of loads, then costs, ratios and footnotes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.builds import OURS, OURS_INTERPRETED
from bench.loads.load import Figure, Load
from bench.results import PeerEntry, Results
from bench.summary import Spread, Summary

BASES = ("direct", "ssh -R")  # what the others are compared with
RATIOS = "Multiples are the medians of each round's own ratio, and not ratios of the medians above.\n"
LONGEST = timedelta(days=1)  # that the samples of one run may be apart before the tables say so


@dataclass(frozen=True)
class Column:
    """One figure of one load."""

    load: str
    figure: Figure


# Every load has these besides its own, and each is a column where it says something.
def _ends(key: str, title: str, unit: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"{end}_{key}", f"{title}, {end}", unit, "less") for end in ("server", "agent"))


CPU = _ends("cpu_s_per_gb", "CPU", "s/GB")
PEAK = _ends("peak_mib", "peak memory", "MiB")


def markdown(results: Results, loads: Sequence[Load]) -> str:
    """Everything about a run, for the terminal, the README and docs."""
    known = [load for load in loads if load.name in results.loads]
    tables = Tables(results)
    shared = [load for load in known if not load.alone]
    parts = [_head(results)]
    for title, names in GROUPS.items():
        columns = [
            Column(load.name, figure)
            for load in shared
            if load.name in names
            for figure in load.figures
            if figure.headline
        ]
        if columns:
            medians, ratios = tables.medians(columns), tables.ratios(columns)
            parts += [f"## {title}\n", medians, _buffers(shared, columns)]
            parts += [RATIOS, ratios] if ratios else []
    costly = [load for load in shared if load.name in COSTLY]
    columns = [Column(load.name, _of(load, figure)) for load in costly for figure in (*CPU, *PEAK)]
    parts += ["## What it costs\n", tables.medians(columns)] if columns else []
    parts += [tables.alone(load) for load in known if load.alone]
    parts.append(tables.footnotes())
    return "\n".join(part for part in parts if part)


GROUPS = {
    "Throughput": ("bulk down", "bulk up", "16 streams", "stalled reader"),
    "Long and lossy links": ("long link", "long link BBR", "first answer", "lossy link", "lossy echo"),
    "Latency": ("echo", "echo under bulk"),
    "Connections and streams": ("connections", "connections x32", "idle streams", "stalled readers"),
    "Agents": ("further agents",),
}
COSTLY = ("bulk down", "bulk up")


class Tables:
    """Renders parts of one run."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._summary = Summary(results)
        self._present = [peer for peer in results.peers if not peer.absent]

    def medians(self, columns: Sequence[Column]) -> str:
        """Medians with the least and the most of all rounds; a failure where there is none."""
        rows = [
            [self._name(peer), *(self._cell(peer, column) for column in columns)]
            for peer in self._rows(columns)
        ]
        return _table(["", *(f"{c.figure.title}, {c.figure.unit}" for c in columns)], rows)

    def ratios(self, columns: Sequence[Column]) -> str:
        """Each figure as a multiple of that of each base that was measured."""
        parts = []
        for base in BASES:
            if base not in {peer.name for peer in self._present}:
                continue
            rows = [
                [self._name(peer), *(self._ratio(peer, base, column) for column in columns)]
                for peer in self._rows(columns)
                if peer.name != base
            ]
            parts.append(_table([f"... as multiples of {base}", *(c.figure.title for c in columns)], rows))
        return "\n".join(parts)

    def _rows(self, columns: Sequence[Column]) -> Iterator[PeerEntry]:
        """Who has a row: all but our second build, which is for some loads only, where it has no cell."""
        for peer in self._present:
            if peer.name != OURS_INTERPRETED or any(self._cell(peer, column) != "-" for column in columns):
                yield peer

    def alone(self, load: Load) -> str:
        """A load that only this project's server is put under."""
        other = load.interpreted and self._results.machine.get("build") == "compiled"
        lines = [f"## {load.name}{' (interpreted)' * other}\n"]
        for peer in self._present:
            if failed := self._summary.failure(peer.name, load.name):
                lines.append(f"failed: {failed}\n")
            rows = (
                [figure.title, f"{with_spread(spread)} {figure.unit}"]
                for figure in load.figures
                if (spread := self._summary.spread(peer.name, load.name, figure.key))
            )
            lines += [_table([peer.name, ""], table)] if (table := list(rows)) else []
        return "\n".join(lines) if len(lines) > 1 else ""

    def footnotes(self) -> str:
        """What each program is, which are missing, and what went wrong."""
        lines = ["## Programs\n"]
        for peer in self._results.peers:
            version = f" {peer.version}" if peer.version not in {"", "-"} else ""
            what = f"**{peer.absent}**" if peer.absent else peer.one_line
            lines.append(f"- {peer.name}{version}{'' if peer.encrypted else ' (not encrypted)'}: {what}")
        lines += [f"- not measured: {load}: {why}" for load, why in self._results.skipped.items()]
        lines += [
            f"- failed: {peer.name}, {load}: {why}"
            for peer in self._present
            for load in self._results.loads
            if (why := self._summary.failure(peer.name, load))
        ]
        return "\n".join(lines) + "\n"

    def _name(self, peer: PeerEntry) -> str:
        return f"**{peer.name}**" if peer.name == OURS else peer.name

    def _cell(self, peer: PeerEntry, column: Column) -> str:
        spread = self._summary.spread(peer.name, column.load, column.figure.key)
        if spread is None:
            return "failed" if self._summary.failure(peer.name, column.load) else "-"
        return with_spread(spread)

    def _ratio(self, peer: PeerEntry, base: str, column: Column) -> str:
        ratio = self._summary.ratio(peer.name, base, column.load, column.figure.key)
        return "-" if ratio is None else f"{number(ratio)}x"


def number(value: float) -> str:
    """Three digits that count, and no more."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def with_spread(spread: Spread) -> str:
    """The median, and around it the least and the most where they differ."""
    if spread.least == spread.most:
        return number(spread.median)
    return f"{number(spread.median)} ({number(spread.least)}-{number(spread.most)})"


def _head(results: Results) -> str:
    machine = results.machine
    ours = f"{OURS} {build}, " if (build := machine.get("build")) else ""
    asked = f"{results.rounds} round{'s' * (results.rounds > 1)}{', quick' * results.quick}"
    asked += "" if results.complete else ", **interrupted**"
    return (
        f"{results.date[:10]}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}, {machine['openssl']}, TCP {machine['tcp']}; "
        f"{ours}{asked}. Medians (least-most of the rounds). Absolute\n"
        'figures hold for that machine and hour: read the ratios. "Down" is from the edge to the server.\n'
        f"{_measured(results)}"
    )


def _measured(results: Results) -> str:
    """A line where samples are of several commits or far apart: they compare less well than those of one."""
    samples = sorted(results.samples, key=lambda sample: sample.measured)
    commits = list(dict.fromkeys(sample.commit for sample in samples))
    times = [datetime.fromisoformat(sample.measured) for sample in samples if sample.measured]
    if not times:
        return "When each figure was measured, and with which commit, was not noted.\n" if samples else ""
    if len(commits) == 1 and len(times) == len(samples) and times[-1] - times[0] <= LONGEST:
        return ""
    first, last = (f"{at:%Y-%m-%d %H:%M}" for at in (times[0], times[-1]))
    some = "" if len(times) == len(samples) else " (or at a time that was not noted)"
    named = [commit or "one that was not noted" for commit in commits]
    which = f"with commit{'s' * (len(named) > 1)} {', '.join(named)}" if any(commits) else "commit not noted"
    return f"Measured between {first} and {last} UTC{some}; {which}.\n"


def _buffers(loads: Sequence[Load], columns: Sequence[Column]) -> str:
    """What was measured with other buffers than the rest of its table, and is not to be compared with it."""
    lines = []
    for load in loads:
        titles = [f'"{column.figure.title}"' for column in columns if column.load == load.name]
        if titles and load.route.buffer:
            lines.append(f"{', '.join(titles)}: {load.route.title}, for every program.\n")
    return "\n".join(lines)


def _of(load: Load, figure: Figure) -> Figure:
    return Figure(figure.key, f"{load.name}: {figure.title}", figure.unit, figure.better)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned for a terminal, too; empty without rows or columns."""
    body = list(rows)
    if len(head) < 2 or not body:
        return ""
    widths = [max(len(row[at]) for row in (head, *body)) for at in range(len(head))]
    lines = [[*head], ["-" * width for width in widths], *body]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )
