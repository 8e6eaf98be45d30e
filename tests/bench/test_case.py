"""One case: a line for each load, whatever fails."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.builds import NOT_BUILT, Build
from bench.case import run
from bench.loads.client import connect_idle
from bench.loads.load import Load, LoadFailed, Trial
from bench.peers.direct import Direct
from bench.peers.peer import PeerFailed, Stage
from bench.peers.programs import Programs
from bench.peers.tunnel import OurPrograms, Tunnel


@dataclass(frozen=True)
class Broken(Direct):
    def start(self, stage: Stage) -> Programs:
        raise PeerFailed("it would not\nlast words")


def touch(trial: Trial) -> dict[str, float]:
    connect_idle(trial.running.entrance).close()
    return {"fine": 1.0, "bytes": 1e6}


def fail(trial: Trial) -> dict[str, float]:
    raise LoadFailed("too heavy")


def cut(trial: Trial) -> dict[str, float]:
    raise ConnectionResetError("cut")


def of_which_build(trial: Trial) -> dict[str, float]:
    assert isinstance(trial.running, OurPrograms)
    return {trial.running.build.name: 1.0}


ALONE = Load("alone", (), of_which_build, alone=True)
GOOD, FAILING, CUT = Load("good", (), touch), Load("failing", (), fail), Load("cut", (), cut)


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_load_that_fails_ends_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    run(Direct(), [FAILING, CUT, GOOD], quick=True)
    assert said(capsys) == [
        {"load": "failing", "failed": "too heavy"},
        {"load": "cut", "failed": "cut"},
        {"load": "good", "figures": {"fine": 1.0, "bytes": 1e6}},
    ]


def test_a_peer_that_does_not_start_fails_all_its_loads(capsys: pytest.CaptureFixture[str]) -> None:
    run(Broken(), [GOOD, CUT], quick=True)
    failed = "it would not\nlast words"
    assert said(capsys) == [{"load": "good", "failed": failed}, {"load": "cut", "failed": failed}]


def test_ours_is_not_started_of_a_build_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = Tunnel(build=Build("compiled", tmp_path))
    run(gone, [GOOD], quick=True)
    run(gone, [ALONE], quick=True)
    assert said(capsys) == [{"load": load.name, "failed": NOT_BUILT} for load in (GOOD, ALONE)]


def test_a_load_that_is_alone_gets_the_build_that_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    run(Tunnel(), [ALONE], quick=True)
    assert [line["figures"] for line in said(capsys)] == [{"interpreted": 1.0}]


def test_both_ends_have_costs(capsys: pytest.CaptureFixture[str]) -> None:
    run(Tunnel(), [GOOD], quick=True)
    (line,) = said(capsys)
    figures = line["figures"]
    assert isinstance(figures, dict)
    for end in ("server", "agent"):
        assert figures[f"{end}_peak_mib"] > 10
        assert figures[f"{end}_cpu_s_per_gb"] == figures[f"{end}_cpu_s"] / 1e-3
