"""Further real agents on a real server: what is counted, and of whom."""

import mmap
import os
from pathlib import Path

from bench.accounting import memory_kib, written_kib
from bench.loads.further_agents import further_agents
from bench.loads.load import Trial
from bench.peers.blocking_relay import BlockingRelay
from bench.peers.direct import Direct
from bench.peers.tunnel import Tunnel
from bench.routes import LOOPBACK
from bench.stage import open_stage

MIB = 1024 * 1024
SIZE = 32 * MIB


def test_further_agents_are_linked_counted_and_gone() -> None:
    with open_stage(LOOPBACK) as stage, Tunnel().start(stage) as running:
        first = set(running.processes["agent"])
        figures = further_agents(Trial(stage, running, quick=True))
        assert set(running.processes["agent"]) == first
    assert figures["linked"] == 2
    assert figures["server"] > -1024  # KiB: the programs' files, if they counted, would make it less
    assert 5 < figures["agent"] < figures["resident"]


def test_a_server_of_one_agent_has_the_agents_figures_only() -> None:
    with open_stage(LOOPBACK) as stage, BlockingRelay().start(stage) as running:
        figures = further_agents(Trial(stage, running, quick=True))
    assert set(figures) == {"agent", "resident", "linked"}
    assert figures["linked"] == 0


def test_without_agents_nothing_is_counted() -> None:
    with open_stage(LOOPBACK) as stage, Direct().start(stage) as running:
        assert further_agents(Trial(stage, running, quick=True)) == {"linked": 0}


def test_what_is_written_counts_and_what_a_file_holds_does_not(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    own = [os.getpid()]
    before, all_before = written_kib(own), memory_kib(own)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[at] for at in range(0, SIZE, mmap.PAGESIZE))  # each page has been touched
        assert memory_kib(own) - all_before > 0.9 * SIZE / 1024
        assert abs(written_kib(own) - before) < 0.1 * SIZE / 1024
    # Not the allocator's: it may have as much resident that somebody has freed.
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE) as filled:
        for at in range(0, SIZE, mmap.PAGESIZE):
            filled[at] = 1
        assert written_kib(own) - before > 0.9 * SIZE / 1024
