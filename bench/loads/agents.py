"""Many agents on one server: what each costs when idle, and how they come back when the server restarts, or
another process takes over from it.

For this project only. The agents are simulated by one process (`bench.light_agents`), because 10,000
processes fit on few machines; the server can't tell the difference.
"""

import json
import resource
import select
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Self

from bench.accounting import cpu_seconds, memory_kib, peak_kib, reset_peaks
from bench.loads.client import connect_idle
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.peers.tunnel import (
    OurPrograms,
    prepare_server,
    server_state,
    start_first_agent,
    start_server,
    start_successor,
)
from tunnelctl.admin_client import ask
from tunnelctl.errors import CommandError

LINKED_S = 300.0  # that all agents together may take
LOOK_S = 0.02  # between two looks at how many are linked
CALL_S = 0.01  # between a call and the next
SETTLE_S = 1.0


def idle_agents(trial: Trial, count: int) -> Mapping[str, float]:
    """Server memory for each further agent, and the CPU that keeping them costs while nothing happens."""
    count = _count(trial, count)
    running = _server(trial)
    with _agents(trial, 10) as first:
        _wait(first)
        time.sleep(SETTLE_S)
        few = _memory(running)
        with _agents(trial, count, first=10) as told:
            times = _wait(told)
            time.sleep(SETTLE_S)
            many = _memory(running)
            idle_s = 1.0 if trial.quick else 12.0  # three heartbeats
            before = cpu_seconds(running.processes["server"])
            time.sleep(idle_s)
            spent = cpu_seconds(running.processes["server"]) - before
    return {
        "memory": (many - few) / count,
        "linked": count / (times["last"] - times["began"]),
        "cpu": 100 * spent / idle_s,
    }


def reconnect_storm(trial: Trial, count: int) -> Mapping[str, float]:
    """Seconds from the restarted server's first accept until a half, 99 % and all agents are linked again."""
    count = _count(trial, count)
    running = _server(trial)
    with _agents(trial, count) as told:
        _wait(told)
        running.end("server")
        start_server(running, trial.stage)
        listens = time.monotonic()
        back = _wait(told)
    return {key: back[key] - listens for key in ("half", "most", "last")}


def handover(trial: Trial, count: int) -> Mapping[str, float]:
    """Seconds from when another process serves until it has the agents; what callers see of that, and memory.

    A real agent is among them, and one caller after the other asks for its service all the while.
    """
    count = _count(trial, count)
    running = _server(trial)
    start_first_agent(running, trial.stage)
    with _agents(trial, count) as told, connect_idle(running.entrance):
        _wait(told)
        time.sleep(SETTLE_S)
        (old,) = running.processes["server"]
        reset_peaks([old])
        with Callers(running.entrance) as callers:
            began = time.monotonic()
            new = start_successor(running, trial.stage)
            times = _watch_links(trial, new, count + 1)
            time.sleep(SETTLE_S)
        peaks = {"old": peak_kib([old]) / 1024, "new": peak_kib([new.pid]) / 1024}
        if old not in running.processes["server"]:
            raise LoadFailed("the old process has not waited for its open call")
    serves, half, most, last = times
    return {
        "serves": serves - began,
        "half": half - serves,
        "most": most - serves,
        "last": last - serves,
        "refused": len(callers.failures),
        "slowest": callers.slowest,
        **peaks,
    }


def _watch_links(
    trial: Trial, process: subprocess.Popen[bytes], count: int
) -> tuple[float, float, float, float]:
    """When that process serves, and has a half, 99 % and all of so many agents."""
    marks = [0, count // 2, int(count * 0.99), count]
    times: list[float] = []
    deadline = time.monotonic() + LINKED_S
    while len(times) < len(marks):
        if time.monotonic() > deadline:
            raise LoadFailed(f"not all agents had changed within {LINKED_S:g} s")
        if process.poll() is not None:
            raise LoadFailed("the process that was to take over has ended")
        with suppress(CommandError):
            status = ask(trial.stage.scratch / "admin.sock", "GET", "/v1/status")
            if any(each["pid"] != process.pid for each in status["predecessors"]):
                linked = status["nodes_connected"]
                times += [time.monotonic() for mark in marks[len(times) :] if linked >= mark]
        time.sleep(LOOK_S)
    serves, half, most, last = times
    return serves, half, most, last


class Callers:
    """One after the other: connects, gets a byte, closes; while the block runs."""

    def __init__(self, entrance: tuple[str, int]) -> None:
        self._entrance = entrance
        self._thread = threading.Thread(target=self._call_on_and_on)
        self._over = threading.Event()
        self.slowest = 0.0  # seconds
        self.failures: list[OSError] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _call_on_and_on(self) -> None:
        while not self._over.wait(CALL_S):
            began = time.monotonic()
            try:
                connect_idle(self._entrance).close()
            except OSError as error:
                self.failures.append(error)
            self.slowest = max(self.slowest, time.monotonic() - began)


def _count(trial: Trial, full: int) -> int:
    return max(10, full // 50) if trial.quick else full


def _server(trial: Trial) -> OurPrograms:
    assert isinstance(trial.running, OurPrograms)
    prepare_server(trial.running, trial.stage)
    start_server(trial.running, trial.stage)
    return trial.running


def _memory(running: OurPrograms) -> int:
    return memory_kib(running.processes["server"])


@contextmanager
def _agents(trial: Trial, count: int, first: int = 0) -> Generator[subprocess.Popen[bytes], None, None]:
    """Light agents, dialling; killed at last."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if count + 200 > allowed:
        raise LoadFailed(
            f"{count} agents need as many open files, of which there may be {allowed}: ulimit -n"
        )
    host, port = trial.stage.wan_dial
    words = ["--count", str(count), "--first", str(first), "--state", str(server_state(trial.stage))]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.light_agents", host, str(port), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait(agents: subprocess.Popen[bytes]) -> Mapping[str, float]:
    """What they say once all of them are linked."""
    assert agents.stdout is not None
    if not select.select([agents.stdout], [], [], LINKED_S)[0]:
        raise LoadFailed(f"not all agents were linked within {LINKED_S:g} s")
    line = agents.stdout.readline()
    if not line:
        raise LoadFailed("the simulated agents ended")
    told: Mapping[str, float] = json.loads(line)
    return told


def _idle(count: int) -> Load:
    return Load(
        f"{count} idle agents",
        (
            Figure("memory", "server memory for each", "KiB", "less"),
            Figure("linked", "agents linked", "/s", "more"),
            Figure("cpu", "server's CPU while idle", "% of a core", "less"),
        ),
        partial(idle_agents, count=count),
        alone=True,
        once=True,
        patience=4,
    )


LOADS = (
    _idle(1000),
    _idle(10_000),
    Load(
        "2000 agents reconnect",
        (
            Figure("half", "half of them are back after", "s", "less"),
            Figure("most", "99 %", "s", "less"),
            Figure("last", "all", "s", "less"),
        ),
        partial(reconnect_storm, count=2000),
        alone=True,
        once=True,
        patience=4,
    ),
    Load(
        "500 agents are handed over",
        (
            Figure("serves", "another process serves after", "s", "less"),
            Figure("half", "a half of them are linked to it after", "s", "less"),
            Figure("most", "99 %", "s", "less"),
            Figure("last", "all", "s", "less"),
            Figure("refused", "calls refused", "", "less"),
            Figure("slowest", "the slowest call", "s", "less"),
            Figure("old", "the old process had at most", "MiB", "less"),
            Figure("new", "the new one", "MiB", "less"),
        ),
        partial(handover, count=500),
        alone=True,
        once=True,
        patience=4,
    ),
)
