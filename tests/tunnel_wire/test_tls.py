"""The TLS pump in memory, and what stands on it: the handshake over a socket, and TlsStream."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.links import MIB, contexts, tcp_pair
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.tls import TlsEnded, TlsPump, TlsStream, handshake, send_all

if TYPE_CHECKING:
    from collections.abc import Callable

Pair = tuple[socket.socket, socket.socket]


def unix_pair() -> Pair:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


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


async def streams(sockets: Callable[[], Pair] = tcp_pair) -> tuple[TlsStream, TlsStream]:
    server_context, client_context = contexts()
    near, far = sockets()
    server = TlsPump(server_context, server_side=True)
    client = TlsPump(client_context, server_hostname="test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, near, server)
        nursery.start_soon(handshake, far, client)
    return TlsStream(near, server), TlsStream(far, client)


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
                assert server.encrypted == 0
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


# --- TlsStream -----------------------------------------------------------------------------------


async def test_conformance_over_tcp() -> None:
    await trio.testing.check_half_closeable_stream(streams, None)


async def test_conformance_over_full_sockets() -> None:
    async def make() -> tuple[TlsStream, TlsStream]:
        return await streams(unix_pair)

    async def make_clogged() -> tuple[TlsStream, TlsStream]:
        pair = await make()
        for stream in pair:
            # A Unix socket takes a record whole or not at all, and is full when it says so.
            with pytest.raises(BlockingIOError):  # noqa: PT012
                while True:
                    stream._pump.write([bytes(16_000)], 16_000)
                    stream._sock.send(stream._pump.ciphertext())
        return pair

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_bulk_both_ways() -> None:
    near, far = await streams()
    data = os.urandom(8 * MIB)

    async def drink(stream: TlsStream) -> None:
        digest, left = hashlib.sha256(), len(data)
        while left:
            piece = await stream.receive_some()
            left -= len(piece)
            digest.update(piece)
        assert digest.digest() == hashlib.sha256(data).digest()

    async with near, far, trio.open_nursery() as nursery:
        for stream in (near, far):
            nursery.start_soon(stream.send_all, data)
            nursery.start_soon(drink, stream)


async def test_closing_is_a_proper_end() -> None:
    near, far = await streams()
    async with far:
        await near.send_all(b"bye")
        await near.aclose()
        assert await far.receive_some() == b"bye"
        assert await far.receive_some() == b""
        assert await far.receive_some() == b""


async def test_one_direction_ends_and_the_other_goes_on() -> None:
    near, far = await streams()
    async with near, far:
        await near.send_all(b"question")
        await near.send_eof()
        assert await far.receive_some() == b"question"
        assert await far.receive_some() == b""
        await far.send_all(b"answer")
        await far.send_eof()
        assert await near.receive_some() == b"answer"
        assert await near.receive_some() == b""


@pytest.mark.skipif(not key_updates.available, reason="needs an ordinary build of CPython")
async def test_answers_to_key_updates_are_bounded() -> None:
    near, far = await streams()
    async with near, far:
        for _ in range(2):
            for _ in range(1500):
                key_updates.ask_for_new_keys(far._pump._ssl)
            await far.send_all(b"x")
            assert await near.receive_some() == b"x"
        with pytest.raises(trio.BrokenResourceError, match="flood of TLS key updates"):
            await near.receive_some()


async def test_an_aborted_connection_is_no_end() -> None:
    near, far = await streams()
    async with far:
        await near.send_all(b"half")
        assert await far.receive_some() == b"half"
        near.abort()
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_a_cut_connection_is_no_end() -> None:
    near, far = await streams()
    async with far:
        await near.send_all(b"bye")
        near._sock.close()
        assert await far.receive_some() == b"bye"
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_garbage_instead_of_records_is_no_end() -> None:
    near, far = await streams()
    async with near, far:
        near._sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


async def test_what_a_cancelled_send_left_is_never_a_proper_end() -> None:
    near, far = await streams()
    async with far:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def give_up() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()

                nursery.start_soon(give_up)
                await near.send_all(bytes(64 * MIB))
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"more")
        await near.aclose()
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            while await far.receive_some():
                pass


async def test_closing_under_a_waiting_reader() -> None:
    near, far = await streams()
    async with far, trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await near.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await near.aclose()


async def test_sending_all_to_a_peer_that_resets() -> None:
    near, far = tcp_pair()
    with near:
        close_with_reset(far)
        with pytest.raises(OSError, match=r"reset|pipe"):
            await send_all(near, bytes(64 * MIB))
