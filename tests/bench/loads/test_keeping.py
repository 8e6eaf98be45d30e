"""Bulk through programs that keep what they have sent, and through forgetful ones."""

from collections.abc import Iterator

import pytest

from bench.loads.keeping import keeping
from bench.loads.load import Trial
from bench.peers.programs import Programs
from bench.routes import LOOPBACK
from bench.stage import open_stage


@pytest.fixture
def trial() -> Iterator[Trial]:
    with open_stage(LOOPBACK) as stage, Programs(stage, entrance=stage.target) as running:
        yield Trial(stage, running, quick=True)


def test_keeping_is_measured_against_forgetting(trial: Trial) -> None:
    figures = keeping(trial)
    assert min(figures["down_cpu"], figures["up_cpu"]) > 0
    assert {key.rpartition("_")[2] for key in figures} == {"keeping", "resuming", "cpu"}
