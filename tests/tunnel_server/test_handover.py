"""Where nothing is handed over, and what either side says then. The rest is in tests/e2e/test_handover.py."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import trio

from tunnel_daemon import inheritance
from tunnel_daemon.descriptor_passing import receive_with_descriptors
from tunnel_daemon.program import ProgramError
from tunnel_server.handover import Handover, socket_path, take_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@asynccontextmanager
async def _old(path: Path) -> AsyncIterator[Handover]:
    """A server that has nothing but its handover socket."""
    made = Handover(path, SimpleNamespace(interception=None))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve)
        yield made
        nursery.cancel_scope.cancel()


async def _in_thread(act: Callable[[socket.socket], None], path: Path) -> None:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(socket_path(path)))
            act(sock)

    with trio.fail_after(10):
        await trio.to_thread.run_sync(connect)


async def test_one_that_does_not_come_up_and_one_that_asks_for_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin.sock"
    caplog.set_level("INFO")

    def ask_for_nothing(sock: socket.socket) -> None:
        sock.sendall(b"hello\n")
        assert sock.recv(1) == b""

    def die(sock: socket.socket) -> None:
        sock.sendall(b"take\n")
        message, descriptors = receive_with_descriptors(sock)
        assert [entry["lock"] for entry in message["listeners"] if entry["lock"] is not None]
        assert "table" not in message
        for descriptor in descriptors:
            socket.close(descriptor)

    async with _old(path) as old:
        await _in_thread(ask_for_nothing, path)
        assert "asks to take over" not in caplog.text
        for _ in range(2):
            await _in_thread(die, path)
            with trio.fail_after(5):
                while "did not come up" not in caplog.text:
                    await trio.sleep(0.01)
            caplog.clear()
        assert not old.done.is_set()
        assert not inheritance.is_succeeded()
    assert not socket_path(path).exists()


def test_where_no_server_runs(tmp_path: Path) -> None:
    assert take_over(tmp_path / "admin.sock") is None
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(socket_path(tmp_path / "admin.sock")))
    assert take_over(tmp_path / "admin.sock") is None


@contextmanager
def _server(path: Path, *says: bytes) -> Iterator[None]:
    """Says something to the first who connects, and goes away."""

    def serve() -> None:
        with listener.accept()[0] as sock:
            for each in says:
                sock.recv(100)
                sock.sendall(each)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(path)))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(10)


def _message(message: object) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">II", len(data), 0) + data


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "the peer has gone"),
        (_message([]), "a message that is no object"),
        (_message({"version": "9"}), "it says 'listeners' in another way than this release"),
        (_message({"listeners": [{"socket": 0, "lock": None}]}), "it says 0 in another way"),
    ],
)
def test_what_is_not_understood_is_not_taken(tmp_path: Path, says: bytes, why: str) -> None:
    path = tmp_path / "admin.sock"
    with _server(path, says), pytest.raises(ProgramError) as caught:
        take_over(path)
    assert str(caught.value).startswith(
        f"the server at {socket_path(path)} does not let this one take over: "
    )
    assert why in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "why"), [(b"kept\n", "this one was too late"), (b"", "it went away meanwhile")]
)
async def test_nothing_is_ours_before_it_is_said(tmp_path: Path, answer: bytes, why: str) -> None:
    path = tmp_path / "admin.sock"
    with _server(path, _message({"listeners": []}), answer):
        takeover = take_over(path)
        assert takeover is not None
        with pytest.raises(ProgramError, match=why):
            await takeover.finish()
