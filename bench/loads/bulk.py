"""One stream as fast as it goes, each way; 16 at once; and one on a long link."""

import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial

from bench.loads.client import PIECE, connect, expect, receive
from bench.loads.load import BYTES, Figure, Load, LoadFailed, Trial
from bench.routes import LONG, LONG_BBR, LOSSY

WARM_UP_S = 0.3
FIRST_UP = 32 * 1024 * 1024  # bytes that tell how many are sent for the measured time


def down(trial: Trial, streams: int = 1) -> Mapping[str, float]:
    """From the targets to the callers."""
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(trial.running.entrance, b"d")) for _ in range(streams)]
        warm_up, _ = receive(socks, min(WARM_UP_S, trial.seconds))
        received, took = receive(socks, trial.seconds)
    if not any(received):
        raise LoadFailed(f"no byte came within {took:.1f} s")
    mean = sum(received) / streams
    carried = sum(warm_up) + sum(received)
    return {"rate": sum(received) / took / 1e6, BYTES: carried, "least": 100 * min(received) / mean}


def up(trial: Trial) -> Mapping[str, float]:
    """From a caller to its target; the time ends when the target says that it has everything."""
    block = memoryview(os.urandom(PIECE))
    with connect(trial.running.entrance, b"u") as sock:

        def send(size: int) -> float:
            began = time.perf_counter()
            sock.sendall(size.to_bytes(8, "big"))
            for at in range(0, size, PIECE):
                sock.sendall(block[: size - at])
            expect(sock, 1)
            return time.perf_counter() - began

        first = FIRST_UP // 8 if trial.quick else FIRST_UP
        size = int(first / send(first) * trial.seconds)
        took = send(size)
    return {"rate": size / took / 1e6, BYTES: first + size}


def long_down(trial: Trial) -> Mapping[str, float]:
    """From the target to the caller, first while windows grow, then when they have."""
    seconds = 2 * trial.seconds
    with connect(trial.running.entrance, b"d") as sock:
        (first,), first_took = receive([sock], seconds)
        (later,), later_took = receive([sock], seconds)
    return {"start": first / first_took / 1e6, "rate": later / later_took / 1e6, BYTES: first + later}


_LEAST = Figure("least", "the slowest of 16", "% of a fair share", "more")
LOADS = (
    Load("bulk down", (Figure("rate", "down", "MB/s", "more"),), down, both_builds=True),
    Load("bulk up", (Figure("rate", "up", "MB/s", "more"),), up, both_builds=True),
    Load(
        "16 streams",
        (Figure("rate", "16 down", "MB/s", "more"), _LEAST),
        partial(down, streams=16),
        both_builds=True,
    ),
    Load(
        "long link",
        (
            Figure("rate", "100 ms 1 Gbit/s", "MB/s", "more"),
            Figure("start", "... its first 4 s", "MB/s", "more"),
        ),
        long_down,
        LONG,
        once=True,
    ),
    Load(
        "long link BBR",
        (
            Figure("rate", "... with TCP BBR", "MB/s", "more"),
            Figure("start", "... with TCP BBR, its first 4 s", "MB/s", "more"),
        ),
        long_down,
        LONG_BBR,
        once=True,
    ),
    Load("lossy link", (Figure("rate", "20 ms, 1 % loss", "MB/s", "more"),), long_down, LOSSY, once=True),
)
