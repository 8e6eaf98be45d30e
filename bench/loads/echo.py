"""64 bytes there and back, one at a time: on an idle link, and beside a bulk stream."""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping

from bench.loads.client import connect, expect, percentiles
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.routes import LOSSY

SIZE = 64
FIRST = 50  # not counted


def idle(trial: Trial) -> Mapping[str, float]:
    """Nothing else on the link."""
    with connect(trial.running.entrance, b"e") as sock:
        return _summary(echoes(sock, 1.5 * trial.seconds))


def under_bulk(trial: Trial) -> Mapping[str, float]:
    """Beside one stream from the target to a caller that takes all it gets, a process of its own."""
    host, port = trial.running.entrance
    seconds = 1.5 * trial.seconds
    with (
        connect(trial.running.entrance, b"e") as sock,
        subprocess.Popen(
            [sys.executable, "-m", "bench.loads.background", host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as bulk,
    ):
        try:
            assert bulk.stdin is not None
            assert bulk.stdout is not None
            if bulk.stdout.readline() != b"flows\n":
                raise LoadFailed("the bulk stream beside the echoes did not start")
            samples = echoes(sock, seconds)
            bulk.stdin.close()
            rate = bulk.stdout.readline()
        finally:
            bulk.kill()
    if not rate:
        raise LoadFailed("the bulk stream beside the echoes ended early")
    return {**_summary(samples), "bulk": float(rate)}


def lossy(trial: Trial) -> Mapping[str, float]:
    """The same as `idle`, for longer: each echo takes a round trip."""
    with connect(trial.running.entrance, b"e") as sock:
        return _summary(echoes(sock, 3 * trial.seconds, first=3))


def echoes(sock: socket.socket, seconds: float, first: int = FIRST) -> list[float]:
    """Seconds that each took. Raises OSError."""
    payload = bytes(SIZE)
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end or len(samples) <= first:
        sock.sendall(payload)
        expect(sock, SIZE)
        samples.append(time.perf_counter() - began)
    return samples[first:]


def _summary(samples: list[float]) -> dict[str, float]:
    p50, p99, p999 = (1e6 * each for each in percentiles(samples, 50, 99, 99.9))
    return {"p50": p50, "p99": p99, "p99.9": p999}


def _figures(what: str) -> tuple[Figure, ...]:
    return tuple(Figure(key, f"{what} {key}", "us", "less") for key in ("p50", "p99", "p99.9"))


LOADS = (
    Load("echo", _figures("echo"), idle, both_builds=True),
    Load(
        "echo under bulk",
        (*_figures("echo under bulk"), Figure("bulk", "bulk beside echoes", "MB/s", "more")),
        under_bulk,
        both_builds=True,
    ),
    Load("lossy echo", _figures("echo, 20 ms, 1 % loss"), lossy, LOSSY, once=True),
)
