"""Where nothing is handed over, and what either side says then. The rest is in tests/e2e/test_handover.py."""

from __future__ import annotations

import json
import os
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
from tunnel_server import handover, takeover
from tunnel_server.former_servers import FormerServers
from tunnel_server.handover import Estate, Handover, socket_path
from tunnel_server.takeover import take_over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


@asynccontextmanager
async def _old(path: Path) -> AsyncIterator[Handover]:
    """A server that has nothing but its handover socket."""
    capturing = SimpleNamespace(interception=None)
    made = Handover(path, capturing, lambda: {"edge-1"}, FormerServers())  # type: ignore[arg-type]
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
        assert (message["pid"], message["linked"], message["former"]) == (os.getpid(), ["edge-1"], [])
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
        (_message({"listeners": []}), "it says 'version' in another way"),
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


NOTHING = {"version": "9", "pid": 7, "listeners": [], "former": [], "linked": []}


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([b"kept\n"], "this one was too late"),
        ([b"yours\n", b"kept\n"], "this one was too late"),
        ([b""], "it went away meanwhile"),
    ],
)
async def test_nothing_is_ours_before_it_is_said(tmp_path: Path, answers: list[bytes], why: str) -> None:
    path = tmp_path / "admin.sock"
    with _server(path, _message(NOTHING), *answers):
        taken = take_over(path)
        assert taken is not None
        with pytest.raises(ProgramError, match=why):
            await taken.finish()


async def test_one_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "ANSWER", 0.2)
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(path)))
        listener.listen()
        held: list[socket.socket] = []

        def lend() -> None:
            held.append(listener.accept()[0])
            held[0].sendall(_message(NOTHING))

        thread = threading.Thread(target=lend)
        thread.start()
        taken = take_over(path)
        thread.join(10)
        assert taken is not None
        with held[0], trio.fail_after(30), pytest.raises(ProgramError, match="or hangs; try again"):
            await taken.finish()


@pytest.mark.parametrize("message", [NOTHING, {"version": "0.1.0rc1", "listeners": []}])
async def test_all_is_ours_once_it_has_said_so_though_it_dies_then(
    tmp_path: Path, message: dict[str, object]
) -> None:
    path = tmp_path / "admin.sock"
    with _server(path, _message(message), b"yours\n"):
        taken = take_over(path)
        assert taken is not None
        await taken.finish()
    await taken.former[0].stream.aclose()


def _take(sock: socket.socket) -> None:
    sock.sendall(b"take\n")
    for descriptor in receive_with_descriptors(sock)[1]:
        socket.close(descriptor)
    sock.sendall(b"able\n")


async def test_one_that_dies_before_it_has_answered_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin.sock"

    def silent(sock: socket.socket) -> None:
        _take(sock)
        assert sock.recv(100) == b"yours\n"
        assert sock.recv(100) == b"kept\n"

    async with _old(path) as old:
        await _in_thread(_take, path)  # and is gone
        with trio.fail_after(5):
            while "this server goes on" not in caplog.text and "has not" not in caplog.text:
                await trio.sleep(0.01)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(handover, "ANSWER", 0.1)
            await _in_thread(silent, path)
        assert not old.done.is_set()
        assert not inheritance.is_succeeded()


async def test_one_that_answers_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inheritance, "succeed", lambda: None)
    path = tmp_path / "admin.sock"

    def answers(sock: socket.socket) -> None:
        _take(sock)
        assert sock.recv(100) == b"yours\n"
        sock.sendall(b"mine\n")
        assert sock.recv(100) == b"gone\n"

    async with _old(path) as old:
        await _in_thread(answers, path)
        await old.done.wait()
        assert old.successor is not None
        await old.successor.aclose()


def test_what_is_on_its_way_stays_what_it_is(tmp_path: Path) -> None:
    """Though this process closes it, and opens something else by the same number."""
    estate = Estate()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port, number = listener.getsockname()[1], listener.fileno()
        assert estate.add(number) == 0
    other = os.open(tmp_path, os.O_RDONLY)
    assert other == number
    with socket.socket(fileno=os.dup(estate.descriptors[0])) as sent:
        assert sent.getsockname()[1] == port
    estate.close()
    os.close(other)
