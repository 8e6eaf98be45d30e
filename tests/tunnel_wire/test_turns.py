"""Turns are short while somebody exchanges small messages, and bulk goes by them."""

from __future__ import annotations

import math
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from tests.tunnel_wire.links import linked, tcp_pair
from tests.tunnel_wire.test_link import WIDE
from tests.tunnel_wire.test_splice import Call, calling, receive, send, start
from tunnel_wire.flow import SEGMENT
from tunnel_wire.link_buffers import ROOM
from tunnel_wire.splicing import Splicing
from tunnel_wire.turns import RECEIVED, SENT, SHORT, SMALL, Messages, Turns, turns_of_this_loop

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from tunnel_wire.flow import Buffer


def keep_short() -> None:
    turns_of_this_loop().small_at = trio.current_time() + 3600
    turns_of_this_loop().note_bulk(trio.current_time())


async def pour(sock: socket.socket, sink: socket.socket, size: int = 16 * SEGMENT) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, sock, bytes(size))
        assert len(await receive(sink, size)) == size


async def exchange(call: Call) -> None:
    await pour(call.caller, call.target, 10)
    await pour(call.target, call.caller, 10)


def test_short_for_a_while_after_the_last_small_message() -> None:
    turns = Turns()
    turns.note_bulk(5.0)
    assert turns.size == SEGMENT
    turns.small_at = 6.0
    assert turns.size == SEGMENT
    turns.note_bulk(6.01)
    assert turns.size == SHORT
    turns.small_at = 6.02
    turns.note_bulk(6.03)
    assert turns.size == SHORT
    turns.note_bulk(6.05)
    assert turns.size == SEGMENT


@pytest.mark.parametrize(
    ("messages", "small"),
    [
        ([("caller", 10), ("target", 10)], True),
        ([("target", SMALL - 1), ("caller", SMALL - 1)], True),
        ([("caller", 10)], False),  # a request for what?
        ([("target", 10), ("target", 10)], False),  # a log that is followed
        ([("caller", 10), ("target", 100_000)], False),
        ([("caller", 100_000), ("target", 10)], False),  # what an upload hears at its end
        ([("caller", 10), ("target", SMALL), ("caller", 10)], False),
    ],
)
async def test_what_counts_as_small_messages(messages: list[tuple[str, int]], *, small: bool) -> None:
    async with calling() as call:
        for source, size in messages:
            ends = (call.caller, call.target)
            await pour(*(ends if source == "caller" else ends[::-1]), size)
        turns = turns_of_this_loop()
        turns.note_bulk(turns.small_at)
        assert turns.size == (SHORT if small else SEGMENT)


async def test_what_bulk_has_of_small_messages_does_not_count() -> None:
    """An HTTP/2 connection's WINDOW_UPDATEs, and what is left of a message where a read has ended."""
    turns, messages = turns_of_this_loop(), Messages()
    for at in range(10):
        messages.note(RECEIVED, 30_000, at)
        for later in (0.01, 0.05, 0.09):
            messages.note(RECEIVED, SMALL - 1, at + later)
            messages.note(SENT, 13, at + later)
    assert turns.small_at == -math.inf
    # Once it is over, they are somebody's: the first tells of nothing.
    messages.note(SENT, 13, 9.11)
    assert turns.small_at == -math.inf
    messages.note(RECEIVED, 13, 9.12)
    assert turns.small_at == 9.12


@pytest.mark.parametrize("noting", ["opener", "answerer"])
async def test_what_counts_where_a_stream_is_read_and_written_by_tasks(noting: str) -> None:
    """As a caller's over TLS, or by `Host`."""
    async with linked() as ends:
        near, far = await ends.stream()
        other = far if noting == "opener" else near
        other._messages._turns = Turns()
        turns = turns_of_this_loop()
        for _ in range(2):
            await near.send_all(b"question")
            await far.receive_some()
        assert turns.small_at == -math.inf
        await far.send_all(b"answer")
        await near.receive_some()
        turns.note_bulk(turns.small_at)
        assert turns.size == SHORT


@pytest.mark.parametrize(
    ("small_at", "before", "after"), [(math.inf, SEGMENT, SHORT), (-math.inf, SHORT, SEGMENT)]
)
@pytest.mark.parametrize("where", ["a link that sends", "a link that reads", "a socket that is read"])
async def test_bulk_looks_for_small_messages_beside_it_wherever_it_is_moved(
    where: str, small_at: float, before: int, after: int
) -> None:
    async with calling(WIDE) as call:
        turns, server = turns_of_this_loop(), call.ends.server
        server._frame_size.low_water = SEGMENT  # the kernel takes a little at once
        near, far = await call.ends.stream()
        if where == "a link that sends":
            turns.size, turns.small_at = before, small_at
            near.write(bytes(4 * SEGMENT))
            near.flush()
            assert server._waits_to_send
        elif where == "a link that reads":
            near.write(bytes(2 * SHORT))
            near.flush()
            turns.size, turns.small_at = before, small_at
            assert await far.receive_some()
            assert not server._waits_to_send
        else:
            splicing = call.near._stream.face
            assert isinstance(splicing, Splicing)
            call.caller.send(bytes(SHORT))
            turns.size, turns.small_at = before, small_at
            splicing._read_in()
            assert splicing.result.to_tunnel == SHORT
            assert not server._waits_to_send
        assert turns.size == after


async def test_a_short_turn_of_a_link() -> None:
    async with linked(WIDE) as ends:
        read = Noting(fileno=ends.agent._sock.detach())
        read.setblocking(False)
        read.sizes = []
        ends.agent._sock = read
        near, far = await ends.stream()
        ends.server._frame_size.target = 2 * SEGMENT
        ends.server._frame_size.low_water = 2 * SEGMENT  # it is not the kernel that ends the turn
        keep_short()
        near.write(bytes(2 * SEGMENT))
        near.flush()
        assert near._stream.outgoing.queued == 2 * SEGMENT - 2 * SHORT
        # It waits for its turn: that says nothing of the path.
        assert ends.server._waits_to_send
        assert ends.server._frame_size._blocked_since is None
        with trio.fail_after(5):
            received = 0
            while received < 2 * SEGMENT:
                received += len(await far.receive_some())
        assert SHORT + ROOM < max(read.sizes) <= 4 * SHORT + ROOM


class Noting(socket.socket):
    """It notes how much is read from it at once."""

    __slots__ = ("sizes",)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        size = super().recv_into(buffer, nbytes, flags)
        self.sizes.append(size)
        return size


async def test_bulk_is_in_short_pieces_only_meanwhile() -> None:
    async with linked(WIDE) as ends:
        caller, near_sock = tcp_pair()
        read = Noting(fileno=near_sock.detach())
        read.setblocking(False)
        framed: list[int] = []
        take = ends.opener.take

        def noting(size: int) -> list[Buffer]:
            pieces = take(size)
            framed.append(sum(map(len, pieces)))
            return pieces

        call = await start(ends, (caller, read))
        with call.caller, call.target:
            read.sizes, ends.opener.take = [], noting
            await pour(call.caller, call.target)
            assert max(read.sizes) > 2 * SHORT
            assert max(framed) > 2 * SHORT
            keep_short()
            read.sizes.clear()
            framed.clear()
            await pour(call.caller, call.target)
            assert max(read.sizes) == SHORT
            assert SHORT <= max(framed) <= 2 * SHORT + ROOM


async def test_what_is_queued_for_a_socket_goes_by_short_turns() -> None:
    async with calling(WIDE) as call, trio.open_nursery() as nursery:
        nursery.start_soon(send, call.caller, bytes(32 * SEGMENT))
        stream = call.far._stream
        with trio.fail_after(5):
            while sum(map(len, stream.incoming.queue)) < 2 * SEGMENT:
                await trio.sleep(0.001)
        keep_short()
        with suppress(BlockingIOError):
            while call.target.recv(SEGMENT):
                pass
        splicing = stream.face
        assert isinstance(splicing, Splicing)
        before = splicing.result.from_tunnel
        assert not splicing._send_queued()
        assert SHORT <= splicing.result.from_tunnel - before <= SEGMENT
        nursery.cancel_scope.cancel()


async def test_what_is_dear_to_read_is_read_in_smaller_turns() -> None:
    async with linked(WIDE) as ends:
        near, far = await ends.stream()
        received = 0

        async def carry(size: int) -> None:
            nonlocal received
            near.write(bytes(size))
            near.flush()
            wanted = received + size
            with trio.fail_after(5):
                while received < wanted:
                    received += len(await far.receive_some())

        now = trio.current_time()

        def slow() -> float:
            nonlocal now
            now += 0.01
            return now

        ends.agent._time = slow
        await carry(4 * SEGMENT)
        least = ends.agent._most_read
        assert least < ROOM
        ends.agent._time = lambda: now
        await carry(SHORT)
        # Cheap once, it need not stay so.
        assert least < ends.agent._most_read < SEGMENT
        await carry(4 * SEGMENT)
        assert ends.agent._most_read == SEGMENT
