"""`make soak`: real programs under mixed load, with faults at random, for as long as is given.

In rounds of about a quarter of a minute: downloads, uploads, ssh, WebSockets and half-closed connections, new
connections all the while, and faults meanwhile. Each round ends when its transfers do; then nothing may be
left of it, and no process may hold more than at first. What a round does follows from seed and number.
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
from tests.e2e.system import EDGE_1, System
from tests.e2e.test_handover import running
from tests.e2e.test_kills import nothing_is_left, rules
from tests.e2e.transfers import Transfers
from tests.soak import faults, readings
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Topology, TopologyError, check_prerequisites

KINDS = {"download": 6, "upload": 4, "ssh": 2, "websocket": 3, "half-closed": 3}
SECONDS = 8.0
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
        own.add_edge(own.topology.edge(1), **faults.AGENT)
        self._transfers = Transfers(own, KINDS, SECONDS)

    def round(self) -> None:
        """One round; says what happened. Raises AssertionError: something was lost, or is left."""
        number = self.counts["rounds"] + 1
        chance = random.Random(f"{self._seed} {number}")
        replaced = chance.random() < REPLACED
        planned = [chance.choice(faults.REPLACING)] if replaced else chance.sample(faults.GENTLE, 2)
        ends = any(fault.ends for fault in planned)
        own, cloud = self._own, self._own.topology.cloud
        began = time.monotonic()
        with (
            Load(cloud, to(EDGE_1, 9081), callers=2, kib=chance.choice([1, 64, 900])) as captured,
            Load(cloud, to("127.0.0.1", FIXED), callers=2) as fixed,
        ):
            if not ends:
                self._transfers.start()
                every = sum(KINDS.values())
                own.until(lambda: own.nodes()["edge-1"]["open_calls"] >= every, running(own), "edge-1")
            for fault in planned:
                time.sleep(chance.uniform(0, 1))
                fault.inflict(own, chance)
                self.faults[fault.name] += 1
            own.wait_ready("edge-1")
            if not ends:
                self._transfers.finish()
                self.counts["transfers, each whole"] += every
        failures = [*captured.failures, *fixed.failures]
        self.counts["rounds"] = number
        self.counts["calls served"] += captured.served + fixed.served
        self.counts["calls reset or refused during a fault"] += len(failures)
        assert captured.hanging() + fixed.hanging() == []
        assert captured.wrong() + fixed.wrong() == []
        assert not failures or any(fault.refuses for fault in planned), failures
        self._settle(", ".join(fault.name for fault in planned), time.monotonic() - began)

    def _settle(self, what: str, took: float) -> None:
        own, name = self._own, running(self._own)
        nothing_is_left(own)
        table = re.sub(r"packets \d+ bytes \d+", "", rules(own))
        self._table = self._table or table
        assert table == self._table, f"the rules are others:\n{table}\n--- at first:\n{self._table}"
        server = self._watch.note("server", lambda: readings.of_server(own, name))
        agent = self._watch.note("agent", lambda: readings.of_agent(own))
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        say(
            f"{minutes:3}:{seconds:02} round {self.counts['rounds']}, {took:.0f} s: {what}; calls: "
            f"{self.counts['calls served']}; {name}: {server}; edge-1: {agent}"
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
