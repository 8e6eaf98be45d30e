"""`python -m bench`: measures, prints tables, and writes JSON and charts."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from bench.builds import COMPILED, NOT_BUILT
from bench.charts import ChartsMissing, check_charts, draw
from bench.loads import registry as every_load
from bench.loads.load import Load
from bench.machine import machine, same
from bench.peers import registry as every_peer
from bench.peers.peer import Peer
from bench.peers.tunnel import Tunnel
from bench.results import Results, ResultsError, Sample
from bench.suite import Suite
from bench.table import markdown

T = TypeVar("T", Peer, Load)


class AskedError(Exception):
    """What was asked for is not there; one line."""


def main() -> int:
    """Return the exit status: 0; 1 for what cannot be, and what failed with --strict; 130 after Ctrl-C."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if asked.path:
        os.environ["PATH"] = os.pathsep.join([*asked.path, os.environ.get("PATH", os.defpath)])
    try:
        if asked.charts:
            check_charts()
            asked.charts.mkdir(parents=True, exist_ok=True)
        results = Results.read(asked.show) if asked.show else _measure(asked)
        _publish(results, asked)
    except (AskedError, ChartsMissing, ResultsError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if not results.complete:
        return 130
    return 1 if asked.strict and any(sample.failed for sample in results.samples) else 0


def _measure(asked: argparse.Namespace) -> Results:
    """All that was asked for, or what there is when Ctrl-C comes."""

    def save(results: Results) -> None:
        if asked.json:
            results.write(asked.json)
        if asked.results:
            asked.results.mkdir(parents=True, exist_ok=True)
            results.write(asked.results / "results.json")

    peers = _chosen(every_peer.peers(), asked.peers, "peer")
    loads = _chosen(every_load.loads(), asked.loads, "load")
    if not asked.quick and any(isinstance(peer, Tunnel) for peer in peers):
        _check_build()
    before = _before(asked.resume, quick=asked.quick) if asked.resume else []
    suite = Suite(peers, loads, rounds=asked.rounds, quick=asked.quick, save=save, before=before)
    try:
        suite.run()
    except KeyboardInterrupt:
        print("interrupted: this is what there is", file=sys.stderr)
    return suite.results


def _check_build() -> None:
    """Refuse to measure hours of another build than somebody thinks. Raises AskedError."""
    if (why := COMPILED.unusable()) not in {"", NOT_BUILT}:
        raise AskedError(f"{why} (or only the first: then the interpreted build is measured)")


def _before(path: Path, *, quick: bool) -> Sequence[Sample]:
    """What an interrupted run has measured. Raises AskedError, ResultsError, OSError."""
    results = Results.read(path)
    if results.quick != quick or not same(results.machine, machine()):
        raise AskedError(f"{path} is of another machine, other versions or other sizes: begin anew")
    return results.samples


def _publish(results: Results, asked: argparse.Namespace) -> None:
    """Tables and charts. Files come first: a reader of our output that goes away costs nothing."""
    text = markdown(results, every_load.loads())
    if asked.results:
        asked.results.mkdir(parents=True, exist_ok=True)
        (asked.results / "results.md").write_text(text)
    if folder := asked.charts or asked.results:
        try:
            draw(results, every_load.loads(), folder)
        except ChartsMissing as missing:
            print(f"bench: no charts: {missing}", file=sys.stderr)
    print(f"\n{text}")


def _chosen(every: Sequence[T], names: str | None, what: str) -> Sequence[T]:
    """Those with these names, in the suite's order; all if none are named. Raises AskedError."""
    if names is None:
        return every
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in _names(every):
            raise AskedError(f"no {what} is called {name!r}; there are: {', '.join(_names(every))}")
    return [entry for entry in every if entry.name in wanted]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="The same loads through this tunnel, through others, and through none.",
        epilog="A program that is not installed is listed, with what installs it. Some loads need root.",
    )
    parser.add_argument("--loads", metavar="A,B", help=f"only these: {', '.join(_names(every_load.loads()))}")
    parser.add_argument("--peers", metavar="A,B", help=f"only these: {', '.join(_names(every_peer.peers()))}")
    parser.add_argument(
        "--rounds", type=_positive, help="of each load on each peer (default 3; 1 with --quick)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that it works, and measures nothing"
    )
    parser.add_argument("--strict", action="store_true", help="exit status 1 if a load failed on anything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round")
    parser.add_argument("--charts", type=Path, metavar="DIR", help="draw charts (PNG, SVG) into this folder")
    parser.add_argument("--results", type=Path, metavar="DIR", help="JSON, table and charts into this folder")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="measure nothing: tables and charts of a JSON file"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="go on with an interrupted run: what its JSON lacks",
    )
    parser.add_argument("--path", action="append", metavar="DIR", help="look for programs here first")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    return asked


def _names(entries: Sequence[T]) -> list[str]:
    return [entry.name for entry in entries]


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 100")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
