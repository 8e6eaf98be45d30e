"""Cases as processes: what becomes of one that does not end, or ends badly."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from bench import runner
from bench.accounting import descendants
from bench.builds import INTERPRETED
from bench.checkout import commit
from bench.loads.load import Load
from bench.loads.registry import loads
from bench.peers.direct import Direct
from bench.peers.tunnel import Tunnel
from bench.plan import Case
from bench.results import Sample, now
from bench.runner import Runner, _end

ECHO = next(load for load in loads() if load.name == "echo")


def run(case: Case) -> list[Sample]:
    before = set(descendants([os.getpid()]))
    samples = Runner(quick=True, namespaces=False).run(case)
    assert set(descendants([os.getpid()])) <= before
    return samples


def test_figures() -> None:
    (sample,) = run(Case(Direct(), (ECHO,), 3))
    assert (sample.peer, sample.load, sample.round, sample.failed) == ("direct", "echo", 3, "")
    assert sample.figures["p50"] > 0


def test_when_and_with_which_commit() -> None:
    before = now()
    (sample,) = run(Case(Direct(), (ECHO,), 0))
    assert before <= sample.measured <= now()
    assert sample.commit == commit()


def test_a_case_that_does_not_end_is_ended_with_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "START_S", 1)
    monkeypatch.setattr(runner, "LOAD_S", 0)
    (sample,) = run(Case(Tunnel(), (ECHO,), 0))
    assert sample.failed == "not done within 1 s"


def test_a_case_that_will_not_end_is_killed_with_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "END_S", 0.2)
    stubborn = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    stubborn += (
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE) as case:
        assert case.stdout
        program = int(case.stdout.readline())
        assert descendants([program]) == [program]
        _end(case)
        assert case.returncode == -signal.SIGKILL
    assert descendants([program]) == []


def test_a_case_that_ends_badly_is_quoted() -> None:
    (sample,) = run(Case(Direct(name="nobody"), (ECHO,), 0))
    assert "invalid choice: 'nobody'" in sample.failed


def test_a_case_is_told_which_build_of_ours_it_is_to_run() -> None:
    """And doesn't look for itself: another may have been made since the run began."""
    of_none = replace(INTERPRETED, name="neither")  # type: ignore[arg-type]
    (sample,) = run(Case(Tunnel(build=of_none), (ECHO,), 0))
    assert "--build: invalid choice: 'neither'" in sample.failed


def test_a_load_that_said_nothing_has_failed() -> None:
    unheard = Load("unheard of", (), lambda trial: {})
    said, unsaid = run(Case(Direct(), (ECHO, unheard), 0))
    assert said.figures
    assert unsaid.failed == "the case ended with status 0"
