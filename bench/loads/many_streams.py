"""1,000 idle streams; 100 streams of which one is not read; one that is, beside 1,000 that are not."""

import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack

from bench.accounting import memory_kib
from bench.loads.client import connect, connect_idle, receive
from bench.loads.load import BYTES, Figure, Load, LoadFailed, Trial
from bench.routes import SMALL_BUFFERS

SETTLE_S = 0.5
SETTLE_MOST = 20  # looks


def idle_streams(trial: Trial) -> Mapping[str, float]:
    """What each open stream costs the two ends, in KiB (PSS), and how fast 1,000 open."""
    count = trial.count(1000)
    with ExitStack() as stack:
        stack.enter_context(connect_idle(trial.running.entrance))
        before = _memory(trial)
        began = time.perf_counter()
        for _ in range(count):
            stack.enter_context(connect_idle(trial.running.entrance))
        took = time.perf_counter() - began
        time.sleep(SETTLE_S)
        after = _memory(trial)
    grown = {end: (after[end] - before[end]) / count for end in after}
    return {**grown, "opened": count / took}


def stalled_reader(trial: Trial) -> Mapping[str, float]:
    """What 99 streams carry, then what they carry while a hundredth has data waiting and is not read."""
    others = trial.count(99)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(trial.running.entrance, b"d")) for _ in range(others)]
        warm_up, _ = receive(socks, min(0.5, trial.seconds))
        before, before_took = receive(socks, trial.seconds)
        if not any(before):
            raise LoadFailed(f"no byte came within {before_took:.1f} s")
        memory_before = sum(_memory(trial).values())
        stack.enter_context(connect(trial.running.entrance, b"d"))
        # Until whatever it may fill is full.
        between, _ = receive(socks, min(1.0, 2 * trial.seconds))
        during, during_took = receive(socks, trial.seconds)
        memory = sum(_memory(trial).values()) - memory_before
    rate = sum(during) / during_took / 1e6
    return {
        "rate": rate,
        "kept": 100 * rate / (sum(before) / before_took / 1e6),
        "memory": memory / 1024,
        BYTES: sum(map(sum, (warm_up, before, between, during))),
    }


def stalled_readers(trial: Trial) -> Mapping[str, float]:
    """What each of 1,000 streams with data waiting costs the two ends, in KiB (PSS), and one more carries."""
    count = trial.count(1000)
    with ExitStack() as stack:
        reader = stack.enter_context(connect(trial.running.entrance, b"d"))
        receive([reader], min(0.5, trial.seconds))
        before = _memory(trial)
        for _ in range(count):
            stack.enter_context(connect(trial.running.entrance, b"d"))
        _settle(reader, trial)
        (received,), took = receive([reader], trial.seconds)
        grown = {end: (size - before[end]) / count for end, size in _memory(trial).items()}
    return {**grown, "rate": received / took / 1e6}


def _settle(reader: socket.socket, trial: Trial) -> None:
    """Wait until whatever the others may fill is full: the reader gets no more than it did a moment ago."""
    got = 0
    for _ in range(SETTLE_MOST):
        (now,), _ = receive([reader], trial.seconds / 2)
        if now <= 1.1 * got:
            return
        got = now


def _memory(trial: Trial) -> dict[str, int]:
    return {end: memory_kib(pids) for end, pids in trial.running.processes.items()}


LOADS = (
    Load(
        "idle streams",
        (
            Figure("server", "idle stream, server", "KiB", "less"),
            Figure("agent", "idle stream, agent", "KiB", "less"),
            Figure("opened", "idle streams opened", "/s", "more", headline=False),
        ),
        idle_streams,
        both_builds=True,
    ),
    Load(
        "stalled reader",
        (
            Figure("rate", "99 streams beside a stalled one", "MB/s", "more"),
            Figure("kept", "... of what they carry without it", "%", "more"),
            Figure("memory", "... memory grown, both ends", "MiB", "less", headline=False),
        ),
        stalled_reader,
    ),
    Load(
        "stalled readers",
        (
            Figure("server", "stalled stream, server", "KiB", "less"),
            Figure("agent", "stalled stream, agent", "KiB", "less"),
            Figure("rate", "a stream beside 1,000 stalled ones", "MB/s", "more"),
        ),
        stalled_readers,
        SMALL_BUFFERS,
        patience=2,
    ),
)
