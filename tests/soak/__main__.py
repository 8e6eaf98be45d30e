"""`make soak`: real programs under mixed load, with faults at random, for as long as is given.

One agent has one link, another has two. In rounds of about a quarter of a minute: downloads, uploads, ssh,
WebSockets and half-closed connections, new connections all the while, and faults meanwhile. Each round ends
when its transfers do; then nothing may be left of it, and no process may hold more than at first. What a
round does follows from seed and number.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.e2e.load import Load, to
from tests.e2e.system import EDGE_1, EDGE_2, System
from tests.e2e.test_handover import running
from tests.e2e.test_kills import nothing_is_left, rules
from tests.e2e.transfers import Transfers
from tests.soak import faults, readings
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Topology, TopologyError, check_prerequisites

KINDS = {"download": 3, "upload": 2, "ssh": 1, "websocket": 2, "half-closed": 2}
"""To each edge."""
SECONDS = 12.0
KIB = (1, 64, 900)
PAUSE = 0.2
"""Seconds between the calls of one caller: the machine is for faults, not for a benchmark."""
FIXED = 19081
REPLACED = 0.2
"""The share of rounds in which a process is replaced. In the others they live on, and could leak."""


class Soak:
    """One deployment, its rounds, and what they came to."""

    def __init__(self, own: System, seed: int) -> None:
        self._own, self._seed = own, seed
        self._watch = readings.Watch()
        self._table = ""
        self._began = time.monotonic()
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        own.start_server(listen=[f"127.0.0.1:{FIXED}=edge-1:9081"])
        self._transfers: dict[str, Transfers] = {}
        for name, links in faults.LINKS.items():
            own.add_edge(own.topology.host(name), links=links, **faults.AGENT)
            self._transfers[name] = Transfers(own, KINDS, SECONDS, edge=name)

    def round(self) -> None:
        """One round; says what happened. Raises AssertionError: something was lost, or is left."""
        number = self.counts["rounds"] + 1
        chance = random.Random(f"{self._seed} {number}")
        replaced = chance.random() < REPLACED
        planned = [chance.choice(faults.REPLACING)] if replaced else chance.sample(faults.GENTLE, 2)
        calm = [name for name in faults.LINKS if not any(it.ends and it.befalls(name) for it in planned)]
        own, cloud = self._own, self._own.topology.cloud
        began = time.monotonic()
        with (
            Load(cloud, to(EDGE_1, 9081), callers=2, kib=chance.choice(KIB), pause=PAUSE) as captured,
            Load(cloud, to("127.0.0.1", FIXED), callers=1, pause=PAUSE) as fixed,
            Load(cloud, to(EDGE_2, 9081), callers=2, kib=chance.choice(KIB), pause=PAUSE) as second,
        ):
            self._begin(calm)
            for fault in planned:
                time.sleep(chance.uniform(0, 1))
                fault.inflict(own, chance)
                self.faults[fault.name] += 1
            for name in faults.LINKS:
                own.wait_ready(name)
            for name in calm:
                self._transfers[name].finish()
                self.counts["transfers, each whole"] += sum(KINDS.values())
        self.counts["rounds"] = number
        for edge, load in (("edge-1", captured), ("edge-1", fixed), ("edge-2", second)):
            self.counts["calls served"] += load.served
            self.counts["calls reset or refused during a fault"] += len(load.failures)
            assert load.hanging() + load.wrong() == []
            assert not load.failures or any(it.refuses and it.befalls(edge) for it in planned), load.failures
        self._settle(", ".join(fault.name for fault in planned), time.monotonic() - began)

    def _begin(self, names: Sequence[str]) -> None:
        """Start the transfers to these edges; return when all of them are open."""
        own, every = self._own, sum(KINDS.values())
        for name in names:
            self._transfers[name].start()

        def all_open() -> bool:
            for name in names:
                if not self._transfers[name].open():  # a busy machine ended the first before the last began
                    self._transfers[name].finish()
                    self._transfers[name].start()
            nodes = own.nodes()
            return all(nodes[name]["open_calls"] >= every for name in names)

        own.until(all_open, running(own), *names)

    def _settle(self, what: str, took: float) -> None:
        own, name = self._own, running(self._own)
        nothing_is_left(own, faults.LINKS)
        table = re.sub(r"packets \d+ bytes \d+|netlink port \d+", "", rules(own))
        self._table = self._table or table
        assert table == self._table, f"the rules are others:\n{table}\n--- at first:\n{self._table}"
        held = {name: self._watch.note("server", lambda: readings.of_server(own, name))}
        for edge in faults.LINKS:
            held[edge] = self._watch.note(edge, lambda edge=edge: readings.of_agent(own, edge))
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        say(
            f"{minutes:3}:{seconds:02} round {self.counts['rounds']}, {took:.0f} s: {what}; calls: "
            f"{self.counts['calls served']}; {'; '.join(f'{who}: {it}' for who, it in held.items())}"
        )

    def summary(self) -> None:
        """Say what it came to."""
        minutes = (time.monotonic() - self._began) / 60
        say(f"{minutes:.1f} minutes, seed {self._seed}")
        for counter in (self.counts, self.faults):
            for what, count in sorted(counter.items()):
                say(f"  {count:8} {what}")
        for what, most in sorted(self._watch.most.items()):
            say(f"  {most:8.0f} {what} at most, in a quiet moment")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 when something was lost or left or could not be set up, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="make soak", description="Mixed load and faults, for a while.")
    parser.add_argument("--minutes", type=float, default=10, help="no round begins after this (default: 10)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32), help="of a run to repeat")
    options = parser.parse_args(arguments)
    try:
        check_prerequisites()
    except TopologyError as error:
        say(str(error))
        return 1
    say(f"{options.minutes:g} minutes, seed {options.seed}")
    directory = Path(tempfile.mkdtemp(prefix="soak-"))
    (logs := directory / "logs").mkdir()
    status = 1
    with Topology(f"et-soak{os.getpid()}") as network, Processes(logs) as processes:
        own = System(network, directory, processes)
        own.init()
        soak = Soak(own, options.seed)
        until = time.monotonic() + 60 * options.minutes
        try:
            while time.monotonic() < until:
                soak.round()
            status = 0
        except AssertionError as error:
            say(f"FAILED in round {soak.counts['rounds'] + 1}: {error}")
        except KeyboardInterrupt:
            say("interrupted")
            status = 130
        with contextlib.suppress(KeyboardInterrupt):
            soak.summary()
    if status == 1:
        say(f"what the programs said is in {logs}")
    else:
        shutil.rmtree(directory)
    return status


def say(text: str) -> None:
    print(f"soak: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
