"""The program behind every tunnel does what its callers ask, and outlives those that break off."""

import socket
import threading
from collections.abc import Iterator

import pytest

from bench import target
from bench.loads.client import connect, connect_idle, expect, receive


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=target.serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()


def test_one_byte_then_nothing(address: tuple[str, int]) -> None:
    with connect_idle(address) as sock:
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)


def test_echo(address: tuple[str, int]) -> None:
    with connect(address, b"e") as sock:
        for word in (b"hello", b"again"):
            sock.sendall(word)
            assert sock.recv(100) == word


def test_bytes_without_end(address: tuple[str, int]) -> None:
    with connect(address, b"d") as one, connect(address, b"d") as other:
        (first, second), took = receive([one, other], 0.1)
    assert first > 0
    assert second > 0
    assert took >= 0.1


def test_an_upload_is_answered_when_all_of_it_came(address: tuple[str, int]) -> None:
    with connect(address, b"u") as sock:
        for size in (3_000_000, 1):
            sock.sendall(size.to_bytes(8, "big") + bytes(size - 1))
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.setblocking(True)
            sock.sendall(b"x")
            expect(sock, 1)


def test_whoever_asks_for_nonsense_or_leaves_costs_nobody_else(address: tuple[str, int]) -> None:
    socket.create_connection(address).close()
    with connect(address, b"?") as sock, pytest.raises(ConnectionResetError, match="early"):
        expect(sock, 1)
    connect_idle(address).close()
