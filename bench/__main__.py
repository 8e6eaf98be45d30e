"""`python -m bench`: measures, prints tables, and writes JSON and charts."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from bench.charts import ChartsMissing, draw
from bench.loads import registry as every_load
from bench.loads.load import Load
from bench.machine import machine
from bench.peers import registry as every_peer
from bench.peers.peer import Absent, Peer
from bench.plan import plan
from bench.results import PeerEntry, Results, ResultsError, Sample
from bench.routes import missing_for_shaping
from bench.runner import Runner
from bench.table import markdown, number

T = TypeVar("T", Peer, Load)


class AskedError(Exception):
    """What was asked for is not there; one line."""


def main() -> int:
    """Return the exit status: 0; 1 for what cannot be, and what failed with --strict; 130 after Ctrl-C."""
    asked = _arguments()
    if asked.path:
        os.environ["PATH"] = os.pathsep.join([*asked.path, os.environ["PATH"]])
    try:
        if asked.show:
            results = Results.read(asked.show)
        else:
            peers = _chosen(every_peer.peers(), asked.peers, "peer")
            loads = _chosen(every_load.loads(), asked.loads, "load")
            results = measure(peers, loads, rounds=asked.rounds, quick=asked.quick)
        return _publish(results, asked)
    except (AskedError, ResultsError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


def measure(peers: Sequence[Peer], loads: Sequence[Load], *, rounds: int, quick: bool) -> Results:
    """Run the plan, saying what goes on; interrupted, the results are what there is."""
    no_shaping = missing_for_shaping()
    results = Results(machine(), quick, rounds, [], [load.name for load in loads])
    possible = [load for load in loads if not (load.route.shaped and no_shaping)]
    results.skipped = {load.name: str(no_shaping) for load in loads if load not in possible}
    present = [peer for peer in peers if _enter(peer, results)]
    began = time.monotonic()

    def say(sample: Sample) -> None:
        results.samples.append(sample)
        load = next(each for each in loads if each.name == sample.load)
        told = ", ".join(
            f"{figure.title} {number(sample.figures[figure.key])} {figure.unit}"
            for figure in load.figures
            if figure.key in sample.figures
        )
        print(
            f"[{time.monotonic() - began:5.0f} s] round {sample.round + 1}, {sample.peer}, {sample.load}: "
            f"{told or 'failed: ' + sample.failed.strip()}",
            flush=True,
        )

    runner = Runner(quick=quick, namespaces=no_shaping is None)
    try:
        for case in plan(present, possible, rounds, quick=quick):
            runner.run(case, say)
    except KeyboardInterrupt:
        print("interrupted: this is what there is", file=sys.stderr)
    else:
        results.complete = True
    return results


def _enter(peer: Peer, results: Results) -> bool:
    """Note whether the peer is there, and return it."""
    found = peer.available()
    absent = found.reason if isinstance(found, Absent) else ""
    version = "" if isinstance(found, Absent) else found
    results.peers.append(PeerEntry(peer.name, peer.encrypted, peer.one_line, version, absent))
    print(f"{peer.name}: {absent or version}", flush=True)
    return not absent


def _publish(results: Results, asked: argparse.Namespace) -> int:
    """Write what was asked for, then print the tables: a reader that goes away costs no results."""
    text = markdown(results, every_load.loads())
    if asked.json:
        results.write(asked.json)
    if asked.results:
        asked.results.mkdir(parents=True, exist_ok=True)
        results.write(asked.results / "results.json")
        (asked.results / "results.md").write_text(text)
    failed = asked.strict and any(sample.failed for sample in results.samples)
    status = (1 if failed else 0) if results.complete else 130
    if folder := asked.charts or asked.results:
        try:
            draw(results, every_load.loads(), folder)
        except ChartsMissing as missing:
            print(f"bench: no charts: {missing}", file=sys.stderr)
            status = status or 1
    print(f"\n{text}")
    return status


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
