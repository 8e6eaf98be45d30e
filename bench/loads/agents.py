"""Many agents on one server: what each costs when idle, and how they come back when the server restarts.

For this project only. The agents are simulated by one process (`bench.light_agents`), because 10,000
processes fit on few machines; the server can't tell the difference.
"""

import json
import resource
import select
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial

from bench.accounting import cpu_seconds, memory_kib
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.peers.programs import Programs
from bench.peers.tunnel import prepare_server, server_state, start_server

LINKED_S = 300.0  # that all agents together may take
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


def _count(trial: Trial, full: int) -> int:
    return max(10, full // 50) if trial.quick else full


def _server(trial: Trial) -> Programs:
    assert isinstance(trial.running, Programs)
    prepare_server(trial.stage, ("127.0.0.1", trial.stage.free_port()))
    start_server(trial.running, trial.stage)
    return trial.running


def _memory(running: Programs) -> int:
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
)
