"""What it costs to keep what was sent until the other end has it, so that streams outlive links.

For this project only, three times, side by side: as it comes; with `resume-grace` 0, which keeps bytes all
the same, and resumes nothing; and with both ends made forgetful (`bench.forgetful`). They carry bulk in turn,
so that what is compared was measured within seconds. All three are interpreted: what is compiled lets nobody
change it while it runs.
"""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from bench.accounting import cpu_seconds
from bench.builds import INTERPRETED
from bench.loads.client import PIECE, connect, expect, receive
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.peers.programs import Programs
from bench.peers.tunnel import OurPrograms, prepare_server, start_first_agent, start_server
from bench.routes import LOOPBACK
from bench.stage import open_stage

ROUNDS = 20
WARM_UP_S = 0.3
SECONDS = 1.0  # of bulk, each way and round
UP_SIZE = 384 << 20  # bytes, about as long
ARMS = KEPT, OFF, FORGOTTEN = ("kept", "resume-grace 0", "forgotten")
_FORGETFUL = Path(__file__).parents[1] / "forgetful.py"


def keeping(trial: Trial) -> Mapping[str, float]:
    """CPU of both ends a byte, in percent of what it costs otherwise: medians of all rounds' ratios."""
    rounds = 1 if trial.quick else ROUNDS
    figures = {}
    spent: dict[str, dict[str, list[float]]] = {way: {arm: [] for arm in ARMS} for way in WAYS}
    with ExitStack() as stack:
        arms = {arm: _start(stack, arm) for arm in ARMS}
        for number in range(rounds):
            for arm in ARMS if number % 2 == 0 else ARMS[::-1]:
                for way, carry in WAYS.items():
                    spent[way][arm].append(carry(arms[arm], quick=trial.quick))
    for way, costs in spent.items():
        figures[f"{way}_cpu"] = 1e9 * median(costs[KEPT])
        figures[f"{way}_keeping"] = _more(costs[KEPT], costs[FORGOTTEN])
        figures[f"{way}_resuming"] = _more(costs[KEPT], costs[OFF])
    return figures


def _more(costs: Sequence[float], than: Sequence[float]) -> float:
    return 100 * (median(one / other for one, other in zip(costs, than, strict=True)) - 1)


def _start(stack: ExitStack, arm: str) -> Programs:
    stage = stack.enter_context(open_stage(LOOPBACK))
    programs = stack.enter_context(OurPrograms(stage, INTERPRETED))
    prepare_server(programs, stage)
    if arm != KEPT:
        with (stage.scratch / "server.toml").open("a") as file:
            file.write("[limits]\nresume-grace = 0\n")
    forgetful = (sys.executable, _FORGETFUL) if arm == FORGOTTEN else ()
    start_server(programs, stage, *forgetful)
    start_first_agent(programs, stage, *forgetful)
    return programs


def _down(programs: Programs, *, quick: bool) -> float:
    """CPU seconds a byte."""
    with connect(programs.entrance, b"d") as sock:
        receive([sock], 0.1 if quick else WARM_UP_S)
        before = _cpu(programs)
        (received,), _ = receive([sock], 0.2 if quick else SECONDS)
        cpu = _cpu(programs) - before
    if not received:
        raise LoadFailed("no byte came")
    return cpu / received


def _up(programs: Programs, *, quick: bool) -> float:
    size = UP_SIZE // 16 if quick else UP_SIZE
    block = memoryview(os.urandom(PIECE))
    with connect(programs.entrance, b"u") as sock:
        for part in (size // 8, size):  # the first to warm up
            before = _cpu(programs)
            sock.sendall(part.to_bytes(8, "big"))
            for at in range(0, part, PIECE):
                sock.sendall(block[: part - at])
            expect(sock, 1)
        return (_cpu(programs) - before) / size


def _cpu(programs: Programs) -> float:
    time.sleep(0.02)  # the last receipts
    return sum(cpu_seconds(pids) for pids in programs.processes.values())


WAYS = {"down": _down, "up": _up}

LOADS = (
    Load(
        "keeping",
        (
            Figure("down_keeping", "CPU of keeping bytes, down", "% more", "less"),
            Figure("up_keeping", "... up", "% more", "less"),
            Figure("down_resuming", "CPU with resume-grace on, down", "% more than off", "less"),
            Figure("up_resuming", "... up", "% more than off", "less"),
            Figure("down_cpu", "CPU of both ends, down", "s/GB", "less"),
            Figure("up_cpu", "... up", "s/GB", "less"),
        ),
        keeping,
        alone=True,
        once=True,
        patience=4,
        interpreted=True,
    ),
)
