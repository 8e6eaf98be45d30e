"""What processes cost, as /proc says it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.accounting import cpu_seconds, descendants, memory_kib, peak_kib, reset_peaks

# One write, so that the words of two processes at one pipe do not run together.
STAY = "os.write(1, b'ready\\n'); sys.stdin.read()"
GROW = f"import os, sys; sys.stdin.readline(); b = bytearray(64 << 20); del b; {STAY}"
SPIN = f"import os, sys, time\nwhile time.process_time() < 0.3: pass\n{STAY}"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        yield child
        assert child.stdin
        child.stdin.close()


def ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout
    assert child.stdout.readline() == b"ready\n"


def test_cpu_of_a_process() -> None:
    with python(SPIN) as child:
        ready(child)
        assert 0.25 <= cpu_seconds([child.pid]) < 5


def test_cpu_of_children_that_live_and_of_those_that_were_waited_for() -> None:
    with python(PARENT) as parent:
        ready(parent)
        family = descendants([parent.pid])
        assert len(family) == 2
        assert cpu_seconds(family) >= 0.25
        assert parent.stdin
        parent.stdin.close()
        # Not reaped yet, so that its times can still be read.
        os.waitid(os.P_PID, parent.pid, os.WEXITED | os.WNOWAIT)
        assert cpu_seconds([parent.pid]) >= 0.25


def test_whoever_has_ended_is_nobodys_descendant_and_costs_nothing() -> None:
    with python("") as child:
        child.wait()
        assert descendants([child.pid]) == []
        assert cpu_seconds([child.pid]) == 0
        assert memory_kib([child.pid]) == 0
        assert peak_kib([child.pid]) == 0


def test_memory_and_its_peak() -> None:
    with python(GROW) as child:
        assert child.stdin
        reset_peaks([child.pid])
        before = peak_kib([child.pid])
        child.stdin.write(b"\n")
        child.stdin.flush()
        ready(child)
        assert peak_kib([child.pid]) - before > 60 * 1024
        assert memory_kib([child.pid]) < 50 * 1024


def test_peaks_count_from_the_reset_on() -> None:
    with python(GROW) as child:
        assert child.stdin
        child.stdin.write(b"\n")
        child.stdin.flush()
        ready(child)
        reset_peaks([child.pid])
        assert peak_kib([child.pid]) < 50 * 1024


def test_shared_memory_is_counted_once() -> None:
    with python(f"import os, sys; b = bytearray(64 << 20); os.fork(); {STAY}") as child:
        ready(child)
        ready(child)
        family = descendants([child.pid])
        assert len(family) == 2
        deadline = time.monotonic() + 5
        while memory_kib(family) > 120 * 1024 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 64 * 1024 < memory_kib(family) < 120 * 1024
