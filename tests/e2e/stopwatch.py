"""Seconds of what is promised within a time: without those in which the machine had other work."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


class Stopwatch:
    """Runs from when it is made, for a chain of things that some processes and this thread do in turn."""

    def __init__(self, processes: Callable[[], Iterable[int]] = list) -> None:
        """Take `processes`, which says the ids of those that run; it is none where this thread does all."""
        self._processes = processes
        self._thread = threading.get_native_id()
        self._before = self._waited()
        self._began = time.monotonic()

    def seconds(self) -> float:
        """Those that have passed, without those in which one of them could have run, and had no CPU.

        Whatever they wait for else, and whatever they compute, counts.
        """
        return time.monotonic() - self._began - self.waited()

    def waited(self) -> float:
        """The latter."""
        now = self._waited()
        return sum(max(0.0, each - self._before.get(key, 0.0)) for key, each in now.items())

    def _waited(self) -> dict[int, float]:
        """Seconds on a run queue, by thread: sched-stats in the kernel's documentation; or nothing."""
        found = {}
        for thread in (self._thread, *self._processes()):
            with suppress(OSError):
                found[thread] = int(Path(f"/proc/{thread}/schedstat").read_text().split()[1]) / 1e9
        return found
