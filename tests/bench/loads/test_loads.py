"""Loads on a target that answers nothing: a reason, and no other load's end."""

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from bench.loads import bulk, client, connections, echo, many_streams
from bench.loads.load import LoadFailed, Trial
from bench.peers.programs import Programs
from bench.routes import LOOPBACK
from bench.stage import open_stage


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """A program that takes connections and carries nothing."""
    monkeypatch.setattr(client, "PATIENCE_S", 0.3)
    with open_stage(LOOPBACK) as made, socket.create_server(("127.0.0.1", 0)) as listener:
        stage = replace(made, target=listener.getsockname())
        yield Trial(stage, Programs(stage, entrance=stage.target), quick=True)


def test_bulk_that_does_not_flow(silent: Trial) -> None:
    with pytest.raises(LoadFailed, match=r"no byte came within \d+\.\d s"):
        bulk.down(silent)
    with pytest.raises(LoadFailed, match="no byte came"):
        many_streams.stalled_reader(silent)


def test_answers_that_do_not_come(silent: Trial) -> None:
    with pytest.raises(TimeoutError):
        echo.idle(silent)
    with pytest.raises(TimeoutError):
        connections.connections(silent, at_once=1)
    with pytest.raises(TimeoutError):
        many_streams.idle_streams(silent)
    with pytest.raises(TimeoutError):
        bulk.up(silent)


def test_a_program_that_hangs_up(silent: Trial) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = nobody.getsockname()
    trial = replace(silent, running=Programs(silent.stage, entrance=gone))
    with pytest.raises(ConnectionRefusedError):
        bulk.down(trial)
