"""Runs cases one after the other, each as a process of its own, and collects what they print."""

import json
import subprocess
import sys
from dataclasses import replace

from bench.checkout import ROOT, commit
from bench.family import family_ends
from bench.peers.tunnel import Tunnel
from bench.plan import Case
from bench.results import Sample, now
from bench.routes import own_namespace

START_S, LOAD_S = 90, 120  # that a case may take for its start, and for each of its loads
END_S = 15  # for its end, once it is told to


class Runner:
    """Where cases run: each in a network namespace of its own if this machine gives us one."""

    def __init__(self, *, quick: bool, namespaces: bool) -> None:
        self._quick = quick
        self._namespaces = namespaces

    def run(self, case: Case) -> list[Sample]:
        """Run one case; a sample for each of its loads, a failed one where that is all there is.

        KeyboardInterrupt ends the case and every process of it, and is raised.
        """
        argv = [sys.executable, "-m", "bench.case", "--peer", case.peer.name, *["--quick"] * self._quick]
        if isinstance(case.peer, Tunnel):
            argv += ["--build", case.peer.build.name]  # as it was when the run began
        argv += [word for load in case.loads for word in ("--load", load.name)]
        measured, measured_with = now(), commit()  # looked up anew: somebody may commit meanwhile
        process = subprocess.Popen(
            own_namespace(argv) if self._namespaces else argv,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we end it in order
        )
        allowed = START_S + LOAD_S * sum(load.patience for load in case.loads)
        timed_out = False
        try:
            output, errors = process.communicate(timeout=allowed)
        except subprocess.TimeoutExpired:
            timed_out = True
            output, errors = _end(process)
        except BaseException:
            _end(process)
            raise
        why = f"not done within {allowed} s" if timed_out else _last_line(errors)
        samples = _samples(case, output, why or f"the case ended with status {process.returncode}")
        return [replace(sample, measured=measured, commit=measured_with) for sample in samples]


def _samples(case: Case, output: bytes, otherwise: str) -> list[Sample]:
    lines = [json.loads(line) for line in output.rpartition(b"\n")[0].splitlines()]  # whole ones
    found = {line.pop("load"): line for line in lines}
    return [
        Sample(case.peer.name, load.name, case.round, **found.get(load.name, {"failed": otherwise}))
        for load in case.loads
    ]


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End a case: it ends its programs itself, and we those that are left."""
    with family_ends(process.pid):
        process.terminate()
        try:
            return process.communicate(timeout=END_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.communicate()


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2]
