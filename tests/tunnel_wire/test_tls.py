"""The TLS pump in memory, and its handshake over a socket."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import MIB, contexts, tcp_pair
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.tls import TlsEnded, TlsPump, handshake, send_all

if TYPE_CHECKING:
    from collections.abc import Callable


def pumps() -> tuple[TlsPump, TlsPump]:
    """Two ends after their handshake in memory."""
    server_context, client_context = contexts()
    server = TlsPump(server_context, server_side=True)
    client = TlsPump(client_context, server_hostname="test")
    while not (client.handshake_step() & server.handshake_step()):
        server.feed(client.ciphertext())
        client.feed(server.ciphertext())
    client.feed(server.ciphertext())
    return server, client


# --- the pump ------------------------------------------------------------------------------------


def test_many_buffers_of_any_size_come_out_whole() -> None:
    server, client = pumps()
    sent = [os.urandom(size) for size in (0, 1, 16_384, 16_385, 1_000_000, 3 * MIB)]
    server.write(sent, sum(map(len, sent)))
    client.feed(server.ciphertext())
    buffer = memoryview(bytearray(256 * 1024))
    received = bytearray()
    while size := client.read_into(buffer):
        received += buffer[:size]
    assert received == b"".join(sent)


def test_small_buffers_share_a_record() -> None:
    server, _ = pumps()
    server.write([b"x"] * 100, 100)
    assert len(server.ciphertext()) < 200


def test_the_pump_knows_when_it_has_given_everything() -> None:
    server, client = pumps()
    buffer = memoryview(bytearray(100))
    server.write([bytes(100)], 100)
    server.write([b"next"], 4)
    wire = server.ciphertext()
    client.feed(wire[:-1])
    assert (client.read_into(buffer), client.drained) == (100, False)
    # Part of a record is nothing yet.
    assert (client.read_into(buffer), client.drained) == (0, True)
    client.feed(wire[-1:])
    assert (client.read_into(buffer[:3]), client.drained) == (3, False)
    assert (client.read_into(buffer), client.drained) == (1, True)
    client.unread(b"again")
    assert (client.read_into(buffer), client.drained) == (5, False)


def test_data_before_close_notify_is_delivered_first() -> None:
    server, client = pumps()
    server.write([b"last words"], 10)
    server.close_notify()
    client.feed(server.ciphertext())
    buffer = memoryview(bytearray(100))
    assert client.read_into(buffer) == 10
    for _ in range(2):
        with pytest.raises(TlsEnded):
            client.read_into(buffer)


def test_an_end_without_close_notify_is_a_cut() -> None:
    server, client = pumps()
    server.write([b"half"], 4)
    client.feed(server.ciphertext()[:-1])
    client.feed_eof()
    with pytest.raises(ssl.SSLError):
        client.read_into(memoryview(bytearray(100)))


def test_a_forged_byte_is_an_error() -> None:
    server, client = pumps()
    server.write([b"hello"], 5)
    record = bytearray(server.ciphertext())
    record[-1] ^= 1
    client.feed(record)
    with pytest.raises(ssl.SSLError):
        client.read_into(memoryview(bytearray(100)))


def test_close_notify_before_the_handshake_is_nothing() -> None:
    TlsPump(contexts()[0], server_side=True).close_notify()


def test_the_pump_says_who_is_there() -> None:
    server, client = pumps()
    assert server.alpn == client.alpn == "tunnel/1"
    assert client.peer_certificate is not None
    assert client.peer_certificate["subjectAltName"] == (("DNS", "test"),)
    assert client.peer_certificate_der
    assert not server.peer_certificate


@pytest.mark.parametrize("whole", [True, False])
def test_ending_our_direction_loses_nothing_of_the_peers(*, whole: bool) -> None:
    """Also what lies undecrypted in the pump just then, the first half of a record for one."""
    server, client = pumps()
    server.write([b"before"], 6)
    server.write([bytes(40_000)], 40_000)
    waiting = server.ciphertext()
    client.feed(waiting if whole else waiting[:-20])
    client.end_sending()
    server.feed(client.ciphertext())
    buffer = memoryview(bytearray(100_000))
    with pytest.raises(TlsEnded):
        server.read_into(buffer)
    if not whole:
        client.feed(waiting[-20:])
    server.write([b"after"], 5)
    server.close_notify()
    client.feed(server.ciphertext())
    received = b""
    with pytest.raises(TlsEnded):  # noqa: PT012
        while True:
            received += bytes(buffer[: client.read_into(buffer)])
    assert received == b"before" + bytes(40_000) + b"after"


def test_what_is_given_back_comes_first() -> None:
    server, client = pumps()
    server.write([b"CONNECT rest"], 12)
    client.feed(server.ciphertext())
    buffer = memoryview(bytearray(100))
    assert client.read_into(buffer[:7]) == 7
    client.unread(b"CONNECT")
    received = b""
    while size := client.read_into(buffer):
        received += bytes(buffer[:size])
    assert received == b"CONNECT rest"


# --- the handshake -------------------------------------------------------------------------------


async def test_a_peer_that_speaks_no_tls() -> None:
    near, far = tcp_pair()
    with near, far:
        far.send(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
        with pytest.raises(ssl.SSLError):
            await handshake(near, TlsPump(contexts()[0], server_side=True))


@pytest.mark.parametrize("size", [1, 5, 6, 200])
async def test_a_hello_in_pieces(size: int) -> None:
    server_context, client_context = contexts()
    near, far = tcp_pair()
    server = TlsPump(server_context, server_side=True)
    client = TlsPump(client_context, server_hostname="test")
    client.handshake_step()
    hello = client.ciphertext()
    with near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(handshake, near, server)
            for at in range(0, len(hello), size):
                far.send(hello[at : at + size])
                await trio.testing.wait_all_tasks_blocked()
                assert server.heard
                assert server.output.pending == 0
            await handshake(far, client)
        assert server.alpn == "tunnel/1"


async def test_the_alert_reaches_the_peer() -> None:
    near, far = tcp_pair()
    stranger = ssl.create_default_context()
    failures: list[str] = []

    async def expect_failure(sock: socket.socket, pump: TlsPump) -> None:
        with pytest.raises(ssl.SSLError) as caught:  # noqa: PT012
            await handshake(sock, pump)
            # TLS 1.3: the client's refusal is seen at the server's first read.
            data = sock.recv(1000)
            pump.feed(data)
            pump.read_into(memoryview(bytearray(10)))
        failures.append(str(caught.value.reason))

    with near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_failure, near, TlsPump(contexts()[0], server_side=True))
            nursery.start_soon(expect_failure, far, TlsPump(stranger, server_hostname="test"))
    assert set(failures) == {"CERTIFICATE_VERIFY_FAILED", "TLSV1_ALERT_UNKNOWN_CA"}


async def test_the_reason_survives_a_peer_that_has_gone() -> None:
    near, far = tcp_pair()
    with near:
        far.send(b"not TLS at all, and long enough to be a record")
        far.close()
        with pytest.raises(ssl.SSLError):
            await handshake(near, TlsPump(contexts()[0], server_side=True))


@pytest.mark.parametrize("leave", [socket.socket.close, close_with_reset])
async def test_a_peer_that_leaves_during_the_handshake(leave: Callable[[socket.socket], None]) -> None:
    near, far = tcp_pair()
    with near:
        leave(far)
        with pytest.raises(ConnectionResetError):
            await handshake(near, TlsPump(contexts()[0], server_side=True))


async def test_a_silent_peer_can_be_given_up(autojump_clock: trio.testing.MockClock) -> None:
    near, far = tcp_pair()
    with near, far:
        with trio.move_on_after(10) as scope:
            await handshake(near, TlsPump(contexts()[0], server_side=True))
        assert scope.cancelled_caught


async def test_sending_all_to_a_peer_that_resets() -> None:
    near, far = tcp_pair()
    with near:
        close_with_reset(far)
        with pytest.raises(OSError, match=r"reset|pipe"):
            await send_all(near, bytes(64 * MIB))
