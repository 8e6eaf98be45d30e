"""Loads on a target that answers nothing: a reason, and no other load's end."""

import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from bench.loads import bulk, client, connections, echo, many_streams
from bench.loads.load import BYTES, LoadFailed, Trial
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


def test_what_flows_before_the_clock_starts_is_carried_too(
    silent: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its CPU counts, so its bytes must."""
    came: list[int] = []

    def receive(socks: Sequence[socket.socket], seconds: float) -> tuple[list[int], float]:
        received, took = client.receive(socks, seconds)
        came.extend(received)
        return received, took

    for module in (bulk, many_streams):
        monkeypatch.setattr(module, "receive", receive)
    with open_stage(LOOPBACK) as stage:
        trial = Trial(stage, Programs(stage, entrance=stage.target), quick=True)
        for load in (bulk.down, many_streams.stalled_reader):
            came.clear()
            assert load(trial)[BYTES] == sum(came)


def test_so_it_is_with_what_is_sent(silent: Trial) -> None:
    took: list[int] = []

    def take(listener: socket.socket) -> None:
        """As the target does, and keep count."""
        sock, _ = listener.accept()
        with sock, sock.makefile("rb") as stream:
            assert stream.read(1) == b"u"
            while size := stream.read(8):
                took.append(len(stream.read(int.from_bytes(size, "big"))))
                sock.sendall(b".")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=take, args=[listener])
        thread.start()
        trial = replace(silent, running=Programs(silent.stage, entrance=listener.getsockname()))
        figures = bulk.up(trial)
        thread.join()
    assert figures[BYTES] == sum(took)
    assert len(took) == 2
