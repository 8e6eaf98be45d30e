"""One case: a line for each load, whatever fails."""

import json
from dataclasses import dataclass

import pytest

from bench.case import run
from bench.loads.client import connect_idle
from bench.loads.load import Load, LoadFailed, Trial
from bench.peers.direct import Direct
from bench.peers.peer import PeerFailed, Stage
from bench.peers.programs import Programs
from bench.peers.tunnel import Tunnel


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


def test_both_ends_have_costs(capsys: pytest.CaptureFixture[str]) -> None:
    run(Tunnel(), [GOOD], quick=True)
    (line,) = said(capsys)
    figures = line["figures"]
    assert isinstance(figures, dict)
    for end in ("server", "agent"):
        assert figures[f"{end}_peak_mib"] > 10
        assert figures[f"{end}_cpu_s_per_gb"] == figures[f"{end}_cpu_s"] / 1e-3
