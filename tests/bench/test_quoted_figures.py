"""The tables of README.md and docs/performance.md quote bench/results/results.json, and nothing else.

Each table there stands under a heading that is named below (TIED, LEFT_ALONE): whoever writes another says
which it is.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pytest

from bench.results import PeerEntry, Results, Sample
from bench.summary import Spread, Summary
from bench.table import number, with_spread

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "results" / "results.json"
ELSEWHERE = "Where system calls are dear"
OTHER_RESULTS = {ELSEWHERE: ROOT / "bench" / "results" / "epyc" / "results.json"}
"""By the heading of what is quoted from there."""
PAGES = README, PERFORMANCE = "README.md", "docs/performance.md"
OURS = "edge-tunnel"
T = TypeVar("T")


@dataclass(frozen=True)
class Quoted:
    """A figure, and what it is multiplied by for the page."""

    load: str
    key: str
    scale: float = 1.0


MS = 1e-3  # the results have microseconds
HEADS = {
    "down, MB/s": Quoted("bulk down", "rate"),
    "one stream down": Quoted("bulk down", "rate"),
    "up, MB/s": Quoted("bulk up", "rate"),
    "one stream up": Quoted("bulk up", "rate"),
    "16 streams, MB/s": Quoted("16 streams", "rate"),
    "16 streams down": Quoted("16 streams", "rate"),
    "the slowest of 16, %": Quoted("16 streams", "least"),
    "99 beside a stalled one": Quoted("stalled reader", "rate"),
    "one beside 1,000 stalled ones": Quoted("stalled readers", "rate"),
    "beside echoes": Quoted("echo under bulk", "bulk"),
    "beside echoes, MB/s": Quoted("echo under bulk", "bulk"),
    "100 ms, 1 Gbit/s, MB/s": Quoted("long link", "rate"),
    "its first 4 s": Quoted("long link", "start"),
    "with BBR": Quoted("long link BBR", "rate"),
    "with BBR, its first 4 s": Quoted("long link BBR", "start"),
    "20 ms, 1 % loss, MB/s": Quoted("lossy link", "rate"),
    "echo there p50, ms": Quoted("lossy echo", "p50", MS),
    "echo there p99, ms": Quoted("lossy echo", "p99", MS),
    "p50, us": Quoted("echo", "p50"),
    "echo p50, us": Quoted("echo", "p50"),
    "p99, us": Quoted("echo", "p99"),
    "p99.9, us": Quoted("echo", "p99.9"),
    "beside bulk p50, us": Quoted("echo under bulk", "p50"),
    "beside bulk p99, ms": Quoted("echo under bulk", "p99", MS),
    "echo beside bulk p99, ms": Quoted("echo under bulk", "p99", MS),
    "beside bulk p99.9, ms": Quoted("echo under bulk", "p99.9", MS),
    "echo beside bulk p99.9, ms": Quoted("echo under bulk", "p99.9", MS),
    "connections/s": Quoted("connections", "rate"),
    "a second, one after another": Quoted("connections", "rate"),
    "32 at once, /s": Quoted("connections x32", "rate"),
    "a second, 32 at once": Quoted("connections x32", "rate"),
    "an idle one, server, KiB": Quoted("idle streams", "server"),
    "a stalled one, server, KiB": Quoted("stalled readers", "server"),
    "CPU down, server, s/GB": Quoted("bulk down", "server_cpu_s_per_gb"),
    "up, server": Quoted("bulk up", "server_cpu_s_per_gb"),
    "peak memory, server, MiB": Quoted("bulk down", "server_peak_mib"),
    "a further agent, server, KiB": Quoted("further agents", "server"),
    "an idle agent, PSS, MiB": Quoted("further agents", "agent"),
    "an idle agent, resident, MiB": Quoted("further agents", "resident"),
}
# What these stand for depends on the column before: its load, with this key.
SHORT_HEADS: Mapping[str, Callable[[str], str]] = {
    "p99, ms": lambda _: "p99",
    "agent": lambda key: key.replace("server", "agent"),
    "agent, KiB": lambda key: key.replace("server", "agent"),
}
RATIO_HEADS = {
    "down": Quoted("bulk down", "rate"),
    "up": Quoted("bulk up", "rate"),
    "16 streams": Quoted("16 streams", "rate"),
    "the slowest of 16": Quoted("16 streams", "least"),
    "bulk beside echoes": Quoted("echo under bulk", "bulk"),
    "echo p50": Quoted("echo", "p50"),
    "echo beside bulk p99": Quoted("echo under bulk", "p99"),
    "echo beside bulk p99.9": Quoted("echo under bulk", "p99.9"),
    "connections": Quoted("connections", "rate"),
    "32 at once": Quoted("connections x32", "rate"),
}
AGENT_HEADS = {"1,000": "1000 idle agents", "10,000": "10000 idle agents"}
AGENT_ROWS = {
    "server memory for each idle agent, KiB": "memory",
    "linked a second": "linked",
    "server's CPU while all are idle, % of a core": "cpu",
}
KEEPING_HEADS = {"down": "down", "up": "up"}
KEEPING_ROWS = {
    "`resume-grace` of 90 s, beside 0": "resuming",
    "bytes kept until their receipt, beside both ends made forgetful (`bench/forgetful.py`)": "keeping",
}


class Unknown(Exception):
    """A tied table has a row or a column that nothing in the results stands for; one line."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table: which, and what it says."""

    page: str
    line: int  # from 1
    column: int  # 0 is the row's name
    row: str
    head: str
    says: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.row}, {self.head}: {self.says}"


@dataclass(frozen=True)
class Table:
    """One table of a page, and the heading that it stands under."""

    page: str
    heading: str
    heads: Sequence[str]
    cells: Sequence[Cell]


Differing = tuple[Cell, str]
"""A cell, and what it should say."""


def tables(page: str, text: str) -> Iterator[Table]:
    """All tables of a page."""
    heading, fenced = "", False
    rows: list[tuple[int, Sequence[str]]] = []
    for at, line in enumerate([*text.splitlines(), ""], 1):
        bare = line.strip()
        if bare.startswith("|"):
            rows.append((at, [cell.strip() for cell in bare.strip("|").split("|")]))
        elif rows:
            yield _table(page, heading, rows)
            rows = []
        if bare.startswith("```"):
            fenced = not fenced
        elif bare.startswith("#") and not fenced:
            heading = bare.lstrip("# ")


def _table(page: str, heading: str, rows: Sequence[tuple[int, Sequence[str]]]) -> Table:
    heads = rows[0][1]
    cells = [
        Cell(page, line, column, _plain(row[0]), heads[column], row[column])
        for line, row in rows[2:]  # after the head and the rule
        for column in range(1, len(row))
    ]
    return Table(page, heading, heads, cells)


def _plain(name: str) -> str:
    """A program's name without what is bold and what is not encrypted."""
    return name.removesuffix("\\*").strip().removeprefix("**").removesuffix("**")


class Quoting:
    """What each cell of a table should say."""

    def __init__(self, results: Results) -> None:
        self._peers = {peer.name for peer in results.peers if not peer.absent}
        self._loads = {sample.load for sample in results.samples}
        self._summary = Summary(results)

    def medians(self, table: Table) -> Iterator[Differing]:
        """A row for each program, a column for each figure: medians."""
        return self._of_programs(table, lambda spread: number(spread.median))

    def spreads(self, table: Table) -> Iterator[Differing]:
        """The same with the least and the most."""
        return self._of_programs(table, with_spread)

    def ratios(self, table: Table) -> Iterator[Differing]:
        """Ours as a multiple of each row's."""
        for cell in table.cells:
            of = _known(RATIO_HEADS, cell.head, cell)
            ratio = self._summary.ratio(OURS, self._peer(cell), of.load, of.key)
            yield cell, "-" if ratio is None else number(ratio)

    def agents(self, table: Table) -> Iterator[Differing]:
        """A row for each figure, a column for each number of agents."""
        for cell in table.cells:
            key, load = _known(AGENT_ROWS, cell.row, cell), _known(AGENT_HEADS, cell.head, cell)
            spread = self._summary.spread(OURS, load, key)
            yield cell, number(spread.median) if spread else "-"

    def keeping(self, table: Table) -> Iterator[Differing]:
        """A row for each comparison, a column for each way. It may be of a run of its own: then none."""
        for cell in table.cells:
            of, way = _known(KEEPING_ROWS, cell.row, cell), _known(KEEPING_HEADS, cell.head, cell)
            if spread := self._summary.spread(OURS, "keeping", f"{way}_{of}"):
                yield cell, f"{abs(spread.median):.1f} % {'less' if spread.median < 0 else 'more'}"

    def _of_programs(self, table: Table, told: Callable[[Spread], str]) -> Iterator[Differing]:
        for cell in table.cells:
            of, peer = _quoted(table, cell), self._peer(cell)
            if spread := self._summary.spread(peer, of.load, of.key):
                scaled = (of.scale * each for each in (spread.median, spread.least, spread.most))
                yield cell, told(Spread(*scaled))
            else:
                yield cell, "failed" if self._summary.failure(peer, of.load) else "-"

    def _peer(self, cell: Cell) -> str:
        if cell.row not in self._peers:
            raise Unknown(f"{cell.page}:{cell.line}: no program of the results is called {cell.row}")
        return cell.row


def _quoted(table: Table, cell: Cell) -> Quoted:
    """What the cell's column has; some heads stand for something only after the one before them."""
    if cell.head not in SHORT_HEADS:
        return _known(HEADS, cell.head, cell)
    before = _known(HEADS, table.heads[cell.column - 1], cell)
    scale = MS if cell.head.endswith(", ms") else before.scale
    return replace(before, key=SHORT_HEADS[cell.head](before.key), scale=scale)


def _known(known: Mapping[str, T], word: str, cell: Cell) -> T:
    if word not in known:
        raise Unknown(f"{cell.page}:{cell.line}: nothing is known of a row or column called {word!r}")
    return known[word]


# By page and heading. Other tables of programs that the results have belong here, too.
TIED: Mapping[tuple[str, str], Callable[[Quoting, Table], Iterator[Differing]]] = {
    (README, "How fast"): Quoting.medians,
    (PERFORMANCE, "Throughput, MB/s"): Quoting.spreads,
    (PERFORMANCE, "Long and lossy links (one round)"): Quoting.medians,
    (PERFORMANCE, "Latency of 64 bytes there and back"): Quoting.spreads,
    (PERFORMANCE, "New connections, open connections"): Quoting.medians,
    (PERFORMANCE, "CPU and memory of one stream"): Quoting.medians,
    (PERFORMANCE, "Many agents on one server (this tunnel alone, one round)"): Quoting.agents,
    (PERFORMANCE, "Twenty more agents"): Quoting.medians,
    (PERFORMANCE, "What it costs that streams outlive links"): Quoting.keeping,
    (PERFORMANCE, "This tunnel as a multiple of"): Quoting.ratios,
    (PERFORMANCE, ELSEWHERE): Quoting.ratios,
}
LEFT_ALONE = {
    (README, "Read on"): "it lists pages",
    (PERFORMANCE, "Where we lose, and why"): "profiles and time stamps, apart from the suite",
    (PERFORMANCE, "On Debian 13"): "another machine's run",
    (PERFORMANCE, "What makes it fast"): "measured before and after each change",
}


def quoted(page: str, text: str, results: Results) -> Iterator[Differing]:
    """Each cell of a page that quotes the results, and what it should say. Raises Unknown."""
    quoting = Quoting(results)
    others = {heading: Quoting(Results.read(file)) for heading, file in OTHER_RESULTS.items()}
    for table in tables(page, text):
        place = table.page, table.heading
        if place in TIED:
            yield from TIED[place](others.get(table.heading, quoting), table)
        elif place not in LEFT_ALONE:
            raise Unknown(
                f"{page}:{table.cells[0].line}: nothing is known of a table under {table.heading!r}"
            )


def differing(page: str, text: str, results: Results) -> list[str]:
    """A line for each cell that does not say what the results have."""
    return [
        f"{cell}, but {RESULTS.name} has {should}"
        for cell, should in quoted(page, text, results)
        if cell.says != should
    ]


def filled(page: str, text: str, results: Results) -> str:
    """The page with what the results have in each cell that quotes them. Raises Unknown."""
    return rewritten(text, quoted(page, text, results))


def rewritten(text: str, cells: Iterable[Differing]) -> str:
    """The page with these cells."""
    lines = text.split("\n")
    for cell, says in cells:
        parts = lines[cell.line - 1].split("|")
        parts[cell.column + 1] = f" {says} "
        lines[cell.line - 1] = "|".join(parts)
    return "\n".join(lines)


def page_text(page: str) -> str:
    return (ROOT / page).read_text()


def next_digit(says: str) -> str:
    """The cell with its last digit changed."""
    return re.sub(r"\d(?=\D*$)", lambda digit: str((int(digit[0]) + 1) % 10), says)


def of_samples(*samples: Sample) -> Results:
    """A run of ours and of another, and of nothing besides."""
    peers = [PeerEntry(name, encrypted=True, one_line="") for name in (OURS, "ssh -R")]
    return Results({}, quick=False, rounds=2, peers=peers, loads=[], samples=list(samples))


@pytest.fixture(scope="module")
def results() -> Results:
    return Results.read(RESULTS)


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_say_what_was_measured(page: str, results: Results) -> None:
    assert differing(page, page_text(page), results) == []


def test_what_is_quoted_is_a_whole_run(results: Results) -> None:
    assert results.complete
    assert not results.quick


def test_every_table_is_tied_or_left_alone_and_each_of_these_is_there() -> None:
    found = {(page, table.heading) for page in PAGES for table in tables(page, page_text(page))}
    assert found == TIED.keys() | LEFT_ALONE.keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_cell_of_a_tied_table_is_compared(page: str, results: Results) -> None:
    text = page_text(page)
    measured = {sample.load for sample in results.samples}
    tied = [
        cell
        for table in tables(page, text)
        if (how := TIED.get((page, table.heading))) and (how is not Quoting.keeping or "keeping" in measured)
        for cell in table.cells
    ]
    assert [cell for cell, _ in quoted(page, text, results)] == tied
    assert len(tied) > 50


@pytest.mark.parametrize("page", PAGES)
def test_a_changed_digit_is_found_in_each_cell_and_mended(page: str, results: Results) -> None:
    text = filled(page, page_text(page), results)
    wrong = [(cell, next_digit(says)) for cell, says in quoted(page, text, results)]
    wrong = [(cell, says) for cell, says in wrong if says != cell.says]
    assert wrong
    changed = rewritten(text, wrong)
    assert differing(page, changed, results) == [
        f"{replace(cell, says=says)}, but results.json has {cell.says}" for cell, says in wrong
    ]
    assert filled(page, changed, results) == text


def test_which_cell_of_which_page_differs_from_what() -> None:
    text = "## How fast\n\n| | up, MB/s | down, MB/s |\n|---|---:|---:|\n| **edge-tunnel** | - | 593 |\n"
    samples = [
        Sample(OURS, "bulk down", number, {"rate": rate}) for number, rate in enumerate([500.0, 684.0])
    ]
    assert differing(README, text, of_samples(*samples)) == [
        "README.md:5: edge-tunnel, down, MB/s: 593, but results.json has 592"
    ]


def test_what_failed_or_was_not_measured_is_no_figure() -> None:
    text = "## How fast\n\n| | up, MB/s | down, MB/s |\n|---|---:|---:|\n| ssh -R \\* | 100 | 100 |\n"
    failed = of_samples(Sample("ssh -R", "bulk up", 0, failed="cut"))
    assert filled(README, text, failed).endswith("| ssh -R \\* | failed | - |\n")


def test_spread_unit_and_the_head_before() -> None:
    text = (
        "### Latency of 64 bytes there and back\n| | beside bulk p50, us | p99, ms |\n|--|\n| ssh -R | | |\n"
    )
    samples = [
        Sample("ssh -R", "echo under bulk", number, {"p50": 100.0 * number, "p99": 1000.0 * number})
        for number in (1, 2, 4)
    ]
    assert "| ssh -R | 200 (100-400) | 2.00 (1.00-4.00) |" in filled(PERFORMANCE, text, of_samples(*samples))


def test_a_ratio_is_the_median_of_each_rounds() -> None:
    text = "### This tunnel as a multiple of\n| | down |\n|--|--|\n| ssh -R | |\n"
    rates = {OURS: [100.0, 900.0, 200.0], "ssh -R": [200.0, 300.0, 400.0]}
    samples = [
        Sample(peer, "bulk down", number, {"rate": rate})
        for peer, each in rates.items()
        for number, rate in enumerate(each)
    ]
    assert "| ssh -R | 0.50 |" in filled(PERFORMANCE, text, of_samples(*samples))


def test_keeping_is_tied_where_the_run_has_it() -> None:
    page = "### What it costs that streams outlive links\n| | down | up |\n|--|--|--|\n"
    page += "".join(f"| {row} | | |\n" for row in KEEPING_ROWS)
    figures = {"down_resuming": -0.9, "up_resuming": 3.94, "down_keeping": 6.2, "up_keeping": 8.06}
    text = filled(PERFORMANCE, page, of_samples(Sample(OURS, "keeping", 0, figures)))
    resuming, keeping = KEEPING_ROWS
    assert text.splitlines()[3:] == [
        f"| {resuming} | 0.9 % less | 3.9 % more |",
        f"| {keeping} | 6.2 % more | 8.1 % more |",
    ]
    assert filled(PERFORMANCE, page, of_samples()) == page


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("## Slow\n| | down, MB/s |\n|--|--|\n| ssh -R | 1 |", "README.md:4: .* a table under 'Slow'"),
        ("## How fast\n| | gold |\n|--|--|\n| ssh -R | 1 |", "README.md:4: .* row or column called 'gold'"),
        ("## How fast\n| | down, MB/s |\n|--|--|\n| bore | 1 |", "README.md:4: no program .* called bore"),
    ],
)
def test_what_nothing_stands_for_is_said(text: str, complaint: str) -> None:
    with pytest.raises(Unknown, match=complaint):
        differing(README, text, of_samples())


def test_a_line_in_a_fence_is_no_heading() -> None:
    text = "## Use\n```sh\n# not this\n```\n| | a |\n|--|--|\n| b | c |\n"
    assert [table.heading for table in tables(README, text)] == ["Use"]
