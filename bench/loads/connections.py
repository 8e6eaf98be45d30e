"""New connections: connect, one byte there and back, close; one after the other, 32 at once, and on a long
link.
"""

import threading
import time
from collections.abc import Mapping
from functools import partial

from bench.loads.client import connect_idle, percentiles
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.routes import LONG

MOST = 10_000  # of the 28,000 ports that whoever dials has, for a minute each


def connections(trial: Trial, at_once: int) -> Mapping[str, float]:
    """Connections a second, by `at_once` threads."""
    entrance = trial.running.entrance
    for _ in range(3):
        connect_idle(entrance).close()
    made: list[int] = []
    failures: list[OSError] = []
    end = time.perf_counter() + trial.seconds

    def caller() -> None:
        count = 0
        try:
            while time.perf_counter() < end and count < MOST // at_once:
                connect_idle(entrance).close()
                count += 1
        except OSError as error:
            failures.append(error)
        made.append(count)

    threads = [threading.Thread(target=caller) for _ in range(at_once)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    if failures:
        raise LoadFailed(f"{len(failures)} of {sum(made)} connections failed: {failures[0]}")
    return {"rate": sum(made) / took}


def first_answer(trial: Trial) -> Mapping[str, float]:
    """Milliseconds from `connect` to the answer of a target that is spoken to first."""
    samples: list[float] = []
    for _ in range(1 + trial.count(20)):
        began = time.perf_counter()
        connect_idle(trial.running.entrance).close()
        samples.append(1e3 * (time.perf_counter() - began))
    (median,) = percentiles(samples[1:], 50)
    return {"p50": median}


LOADS = (
    Load(
        "connections",
        (Figure("rate", "new connections", "/s", "more"),),
        partial(connections, at_once=1),
        both_builds=True,
    ),
    Load(
        "connections x32",
        (Figure("rate", "... 32 at once", "/s", "more"),),
        partial(connections, at_once=32),
        both_builds=True,
    ),
    Load(
        "first answer",
        (Figure("p50", "first answer at 100 ms", "ms", "less"),),
        first_answer,
        LONG,
        once=True,
    ),
)
