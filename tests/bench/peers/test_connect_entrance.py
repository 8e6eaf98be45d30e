"""The entrance in front of konnectivity, before a proxy that answers CONNECT as konnectivity does."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.peers.configuration import connect_entrance
from bench.peers.peer import free_port

TARGET = "127.0.0.1:9999"
ASKED = f"CONNECT {TARGET} HTTP/1.1\r\nHost: {TARGET}\r\n\r\n".encode()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield listener


@pytest.fixture
def entrance(tmp_path: Path, proxy: socket.socket) -> Iterator[tuple[str, int]]:
    address = ("127.0.0.1", free_port())
    command = connect_entrance(address, tmp_path / "socket", TARGET)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield address
        finally:
            process.kill()


def accept(proxy: socket.socket, answer: bytes) -> socket.socket:
    """The proxy's side of the next caller, asked and answered."""
    asked, _ = proxy.accept()
    assert asked.recv(len(ASKED), socket.MSG_WAITALL) == ASKED
    asked.sendall(answer)
    return asked


def test_what_follows_the_answer_reaches_the_caller_and_each_end_is_passed_on(
    proxy: socket.socket, entrance: tuple[str, int]
) -> None:
    data = os.urandom(3 * 1024 * 1024)
    with socket.create_connection(entrance) as caller:
        with accept(proxy, b"HTTP/1.1 200 Connection established\r\n\r\n" + b"greeting") as target:
            assert caller.recv(8, socket.MSG_WAITALL) == b"greeting"
            sender = threading.Thread(target=lambda: (caller.sendall(data), caller.shutdown(socket.SHUT_WR)))
            sender.start()
            assert target.recv(len(data) + 1, socket.MSG_WAITALL) == data  # and its end, or this waits
            sender.join()
            target.sendall(b"still here")
        assert caller.recv(100, socket.MSG_WAITALL) == b"still here"


@pytest.mark.parametrize("answer", [b"HTTP/1.1 502 Bad Gateway\r\n\r\nwhy", b"", b"x" * 5000])
def test_a_refusal_closes_the_caller(proxy: socket.socket, entrance: tuple[str, int], answer: bytes) -> None:
    with socket.create_connection(entrance) as caller:
        accept(proxy, answer).close()
        assert caller.recv(1) == b""


def test_a_caller_that_is_gone_ends_the_proxys_side(proxy: socket.socket, entrance: tuple[str, int]) -> None:
    caller = socket.create_connection(entrance)
    with accept(proxy, b"HTTP/1.1 200 OK\r\n\r\n") as target:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        caller.close()
        assert target.recv(1) == b""
