"""What a process of ours holds while nothing goes on, read from outside, and whether that grows."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.system import System, curl, curl_json, resident

GROWTH: Mapping[str, float] = {"MiB": 24, "fds": 4, "threads": 4, "tasks": 4}
"""What a process may gain from its first quiet moment to its last. A leak of one for each call or fault is
hundreds. Memory: what Python's allocator and the buffers have grown to at the worst moment so far stays.
"""
PATIENCE = 15.0
"""Seconds until nothing of a round is left: who closes a connection gives its peer a moment."""


@dataclass(frozen=True)
class Reading:
    """One process in a quiet moment."""

    pid: int
    held: Mapping[str, float]
    """The keys of GROWTH."""

    def __str__(self) -> str:
        return ", ".join(f"{value:.0f} {what}" for what, value in self.held.items())


def of_server(own: System, name: str) -> Reading:
    """The server that runs as process `name`."""
    metrics = curl(own.topology.cloud, "http://127.0.0.1:10265/metrics").stdout
    found = re.search(r"^edge_tunnel_tasks (\S+)$", metrics, re.MULTILINE)
    assert found, metrics
    return _reading(own.processes[name].pid, float(found[1]))


def of_agent(own: System, name: str) -> Reading:
    """The agent of the edge `name`."""
    status = curl_json(own.topology.host(name), "http://127.0.0.1:10266/status")
    return _reading(own.processes[name].pid, status["tasks"])


def _reading(pid: int, tasks: float) -> Reading:
    process = Path("/proc", str(pid))
    threads = re.search(r"^Threads:\s+(\d+)$", (process / "status").read_text(), re.MULTILINE)
    assert threads
    fds = sum(1 for _ in (process / "fd").iterdir())
    return Reading(pid, {"MiB": resident(pid), "fds": fds, "threads": float(threads[1]), "tasks": tasks})


class Watch:
    """The first and the last reading of each process; raises AssertionError where it has grown."""

    def __init__(self) -> None:
        self._first: dict[int, Reading] = {}
        self.most: dict[str, float] = {}
        """The largest value of each kind, by program."""

    def note(self, program: str, take: Callable[[], Reading]) -> Reading:
        """Take one more reading of a process; for a while again, as what is being closed takes a moment."""
        deadline = time.monotonic() + PATIENCE
        while (grown := self._grown(reading := take())) and time.monotonic() < deadline:
            time.sleep(PATIENCE / 30)
        for what, value in reading.held.items():
            key = f"{what} of {program}"
            self.most[key] = max(self.most.get(key, 0), value)
        assert not grown, f"{program} has {', '.join(grown)} more than at first: {reading}"
        return reading

    def _grown(self, reading: Reading) -> list[str]:
        first = self._first.setdefault(reading.pid, reading).held
        more = {what: value - first[what] for what, value in reading.held.items()}
        return [f"{value:.0f} {what}" for what, value in more.items() if value > GROWTH[what]]
