"""Simulated agents on a real server: they link, stay, and come back."""

from collections.abc import Iterator

import pytest

from bench.loads.agents import handover, idle_agents, reconnect_storm
from bench.loads.load import Trial
from bench.peers.tunnel import Tunnel
from bench.routes import LOOPBACK
from bench.stage import open_stage


@pytest.fixture
def trial() -> Iterator[Trial]:
    with open_stage(LOOPBACK) as stage, Tunnel().unstarted(stage) as running:
        yield Trial(stage, running, quick=True)


def test_memory_of_idle_agents(trial: Trial) -> None:
    figures = idle_agents(trial, count=500)
    assert abs(figures["memory"]) < 4096  # KiB; of ten agents the allocator may hide more than they take
    assert figures["linked"] > 0


def test_all_agents_are_back_after_a_restart(trial: Trial) -> None:
    figures = reconnect_storm(trial, count=500)
    assert figures["half"] <= figures["most"] <= figures["last"]
    assert len(trial.running.processes["server"]) == 1


def test_agents_are_handed_over_and_no_call_is_refused(trial: Trial) -> None:
    figures = handover(trial, count=500)
    assert figures["refused"] == 0
    assert 0 <= figures["half"] <= figures["most"] <= figures["last"]
    assert figures["slowest"] > 0
    assert min(figures["old"], figures["new"]) > 10
