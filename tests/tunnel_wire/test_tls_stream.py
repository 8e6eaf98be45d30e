"""TLS as an ordinary stream: as trio says that one behaves, and no cut is an end."""

from __future__ import annotations

import hashlib
import os
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.links import MIB, contexts, tcp_pair
from tunnel_wire.tls import TlsPump, handshake
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from collections.abc import Callable

Pair = tuple[socket.socket, socket.socket]


def unix_pair() -> Pair:
    one, other = socket.socketpair()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def streams(sockets: Callable[[], Pair] = tcp_pair) -> tuple[TlsStream, TlsStream]:
    server_context, client_context = contexts()
    near, far = sockets()
    server = TlsPump(server_context, server_side=True)
    client = TlsPump(client_context, server_hostname="test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, near, server)
        nursery.start_soon(handshake, far, client)
    return TlsStream(near, server), TlsStream(far, client)


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
