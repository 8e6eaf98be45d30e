"""Caller - socket - splice - link - splice - socket - target: what one end does, the other sees."""

from __future__ import annotations

import errno
import gc
import hashlib
import mmap
import os
import socket
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import MIB, Ends, linked, tcp_pair
from tests.tunnel_wire.test_client_hello import hello
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.flow import SegmentPool
from tunnel_wire.hello import DrainReason
from tunnel_wire.limits import WireLimits
from tunnel_wire.owner import Owner
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, OwnedSplice, SpliceResult, splice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tunnel_wire.stream import TunnelStream


@dataclass
class Call:
    """One call through a link. `caller` and `target` are the sockets of the two programs.

    The near end is carried by a task, the far one by an owner.
    """

    ends: Ends
    near: TunnelStream
    far: TunnelStream
    caller: socket.socket
    target: socket.socket
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    far_scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    results: dict[str, SpliceResult] = field(default_factory=dict)
    done: dict[str, trio.Event] = field(default_factory=lambda: {"near": trio.Event(), "far": trio.Event()})

    async def run_near(self, sock: socket.socket) -> None:
        result = self.results["near"] = SpliceResult()
        try:
            with self.scope:
                await splice(self.near, sock, result)
        finally:
            self.done["near"].set()
            assert sock.fileno() == -1

    async def own_far(self, sock: socket.socket) -> None:
        with self.far_scope:
            async with trio.open_nursery() as nursery:
                owner = Owner(nursery)
                nursery.start_soon(owner.run)
                self.begin_far(owner, sock)
                owner.close()

    def begin_far(self, owner: Owner, sock: socket.socket) -> None:
        def ended(result: SpliceResult) -> None:
            self.done["far"].set()
            assert result is self.results["far"]
            assert sock.fileno() == -1

        result = self.results["far"] = SpliceResult()
        OwnedSplice(owner, self.far.release(), sock, ended, result).start()

    async def wait(self, near: End, far: End) -> None:
        with trio.fail_after(5):
            for event in self.done.values():
                await event.wait()
        assert (self.results["near"].end, self.results["far"].end) == (near, far)

    def counts(self) -> tuple[int, int]:
        """Bytes to the target and to the caller, on which both ends must agree."""
        near, far = self.results["near"], self.results["far"]
        assert (near.to_tunnel, near.from_tunnel) == (far.from_tunnel, far.to_tunnel)
        return near.to_tunnel, near.from_tunnel


async def start(ends: Ends, callers: tuple[socket.socket, socket.socket] | None = None) -> Call:
    near, far = await ends.stream()
    caller, near_sock = callers or tcp_pair()
    target, far_sock = tcp_pair()
    call = Call(ends, near, far, caller, target)
    ends.nursery.start_soon(call.run_near, near_sock)
    ends.nursery.start_soon(call.own_far, far_sock)
    await trio.testing.wait_all_tasks_blocked()
    return call


@asynccontextmanager
async def calling(limits: WireLimits | None = None) -> AsyncIterator[Call]:
    async with linked(limits or WireLimits()) as ends:
        call = await start(ends)
        with call.caller, call.target:
            yield call


async def send(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        await trio.lowlevel.wait_writable(sock)
        view = view[sock.send(view) :]


async def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly `size` bytes, or fewer at the end."""
    data = bytearray()
    with trio.fail_after(10):
        while len(data) < size:
            await trio.lowlevel.wait_readable(sock)
            if not (piece := sock.recv(size - len(data))):
                break
            data += piece
    return bytes(data)


async def expect_reset(sock: socket.socket) -> bytes:
    """Everything up to a reset; a clean end is a failure."""
    data = bytearray()
    with trio.fail_after(5):
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                piece = sock.recv(65536)
            except ConnectionResetError:
                return bytes(data)
            assert piece, f"a clean end after {len(data)} bytes"
            data += piece


# --- connections that many requests share --------------------------------------------------------


@pytest.mark.parametrize(("said", "pooled"), [(hello("h2"), True), (hello("http/1.1"), False)])
async def test_both_ends_know_them(*, said: bytes, pooled: bool) -> None:
    async with linked(WireLimits()) as ends:
        near, far = await ends.stream()
        streams = [each._stream for each in (near, far)]
        caller, near_sock = tcp_pair()
        target, far_sock = tcp_pair()
        with caller, target:
            ends.nursery.start_soon(partial(splice, near, near_sock, is_pooled=Http2Offer()))
            ends.nursery.start_soon(
                partial(splice, far, far_sock, is_pooled=Http2Offer(), caller_is_far=True)
            )
            # What the other one says decides nothing.
            target.send(hello("h2"))
            assert await receive(caller, 5)
            assert not any(stream.is_pooled for stream in streams)
            for part in (said[:9], said[9:]):
                await send(caller, part)
                assert await receive(target, len(part)) == part
            assert [stream.is_pooled for stream in streams] == [pooled, pooled]
            ends.nursery.cancel_scope.cancel()


@pytest.mark.parametrize("early", [0, 9, 10_000])
@pytest.mark.parametrize(("said", "pooled"), [(hello("h2"), True), (hello("http/1.1"), False)])
async def test_the_targets_end_knows_them_by_what_came_before_its_answer(
    *, said: bytes, pooled: bool, early: int
) -> None:
    first, rest = said[:early], said[early:]
    async with linked(WireLimits()) as ends:
        near = ends.opener.open_stream(ends.opening, "target", 80)
        near.write(first)
        near.flush()
        await ends.asked.wait()
        (request,) = ends.waiting
        stream = request._stream
        with trio.fail_after(10):
            while stream.incoming.received < len(first):
                await trio.lowlevel.checkpoint()
        target, far_sock = tcp_pair()
        with target:
            ends.nursery.start_soon(
                partial(splice, request.accept(), far_sock, is_pooled=Http2Offer(), caller_is_far=True)
            )
            assert await receive(target, len(first)) == first
            while near.room() == 0:
                await trio.lowlevel.checkpoint()
            near.write(rest)
            near.flush()
            assert await receive(target, len(rest)) == rest
            assert stream.is_pooled is pooled
            ends.nursery.cancel_scope.cancel()


# --- ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("caller_first", [True, False])
async def test_ends_in_both_orders(*, caller_first: bool) -> None:
    async with calling() as call:
        first, second = (call.caller, call.target) if caller_first else (call.target, call.caller)
        await send(first, b"question")
        first.shutdown(socket.SHUT_WR)
        assert await receive(second, 100) == b"question"
        # Half-closed: the other direction goes on, for as long as it likes.
        for _ in range(3):
            await send(second, b"answer")
            assert await receive(first, 6) == b"answer"
        second.shutdown(socket.SHUT_WR)
        assert await receive(first, 1) == b""
        await call.wait(End.FINISHED, End.FINISHED)
        assert sorted(call.counts()) == [8, 18]


async def test_both_end_at_once() -> None:
    async with calling() as call:
        call.caller.shutdown(socket.SHUT_WR)
        call.target.shutdown(socket.SHUT_WR)
        assert await receive(call.caller, 1) == await receive(call.target, 1) == b""
        await call.wait(End.FINISHED, End.FINISHED)
        assert call.counts() == (0, 0)


async def test_a_caller_that_waits_for_a_digest() -> None:
    data = os.urandom(10 * MIB)
    async with calling() as call, trio.open_nursery() as nursery:

        async def target() -> None:
            digest = hashlib.sha256(await receive(call.target, 1 << 30))
            await send(call.target, digest.digest())
            call.target.close()

        nursery.start_soon(target)
        await send(call.caller, data)
        call.caller.shutdown(socket.SHUT_WR)
        assert await receive(call.caller, 100) == hashlib.sha256(data).digest()
        await call.wait(End.FINISHED, End.FINISHED)


async def test_a_target_that_speaks_first_and_one_that_closes_at_once() -> None:
    async with linked() as ends:
        for greeting in (b"SSH-2.0-x\r\n", b""):
            near, far = await ends.stream()
            caller, near_sock = tcp_pair()
            target, far_sock = tcp_pair()
            with caller:
                # All of it has happened before anybody splices.
                target.send(greeting)
                target.close()
                call = Call(ends, near, far, caller, target)
                ends.nursery.start_soon(call.own_far, far_sock)
                await trio.testing.wait_all_tasks_blocked()
                ends.nursery.start_soon(call.run_near, near_sock)
                assert await receive(caller, 100) == greeting
                caller.shutdown(socket.SHUT_WR)
                await call.wait(End.FINISHED, End.FINISHED)


# --- resets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_caller", [True, False])
async def test_a_reset_is_a_reset_behind_its_data(*, from_caller: bool) -> None:
    data = os.urandom(50_000)
    async with calling() as call:
        one, other = (call.caller, call.target) if from_caller else (call.target, call.caller)
        await send(one, data)
        close_with_reset(one)
        assert await expect_reset(other) == data
        expected = End.LOCAL_RESET, End.REMOTE_RESET
        await call.wait(*(expected if from_caller else expected[::-1]))


@pytest.mark.parametrize("from_caller", [True, False])
async def test_a_reset_after_one_direction_has_finished(*, from_caller: bool) -> None:
    """The end was the other side's: what the reset cuts is the direction that is still open."""
    async with calling() as call:
        one, other = (call.caller, call.target) if from_caller else (call.target, call.caller)
        other.shutdown(socket.SHUT_WR)
        assert await receive(one, 1) == b""
        await send(one, b"partial")
        close_with_reset(one)
        assert await expect_reset(other) == b"partial"
        expected = End.LOCAL_RESET, End.REMOTE_RESET
        await call.wait(*(expected if from_caller else expected[::-1]))


@pytest.mark.parametrize("from_caller", [True, False])
async def test_a_reset_after_its_own_end_is_noticed_though_nobody_writes(
    autojump_clock: trio.testing.MockClock, *, from_caller: bool
) -> None:
    """A caller that has sent its request, ended its direction, and is killed while it waits."""
    autojump_clock.autojump_threshold = 0.05
    async with calling() as call:
        one, other = (call.caller, call.target) if from_caller else (call.target, call.caller)
        await send(one, b"question")
        one.shutdown(socket.SHUT_WR)
        assert await receive(other, 100) == b"question"
        close_with_reset(one)
        await trio.lowlevel.wait_writable(other)
        expected = End.LOCAL_RESET, End.REMOTE_RESET
        await call.wait(*(expected if from_caller else expected[::-1]))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            other.send(b"answer")


@pytest.mark.parametrize("from_caller", [True, False])
async def test_a_socket_that_dies_while_its_stream_is_stalled(
    autojump_clock: trio.testing.MockClock, *, from_caller: bool
) -> None:
    """The peer never reads, so that nothing is read from the socket either; its reset is noticed."""
    autojump_clock.autojump_threshold = 0.05
    async with calling() as call:
        one, other = (call.caller, call.target) if from_caller else (call.target, call.caller)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.move_on_after(1):
            await send(one, bytes(64 * MIB))
        close_with_reset(one)
        expected = End.LOCAL_RESET, End.REMOTE_RESET
        await call.wait(*(expected if from_caller else expected[::-1]))
        await expect_reset(other)


@pytest.mark.parametrize("attempt", range(30))
async def test_a_reset_that_a_write_meets_first_is_no_clean_end(attempt: int) -> None:
    """The error is told once: the read behind it says end of file, and means the reset."""
    async with linked() as ends:
        near, far = await ends.stream()
        caller, near_sock = tcp_pair()
        result = SpliceResult()
        ends.nursery.start_soon(splice, near, near_sock, result)
        await trio.testing.wait_all_tasks_blocked()
        # Both arrive in the same turn of the event loop.
        close_with_reset(caller)
        far.write(b"too late")
        far.flush()
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            assert await far.receive_some(), "a clean end"
        assert result.end is End.LOCAL_RESET


async def test_a_reset_waits_a_bounded_time_for_a_peer_that_does_not_read(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with calling() as call:
        call.caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.move_on_after(1):
            await send(call.target, bytes(64 * MIB))
        began = trio.current_time()
        close_with_reset(call.target)
        await call.wait(End.REMOTE_RESET, End.LOCAL_RESET)
        # A second for what the socket held, one more for what the tunnel held.
        assert 1.0 <= trio.current_time() - began < 2.5
        await expect_reset(call.caller)


# --- the link, and cancellation -------------------------------------------------------------------


async def test_the_links_loss_is_a_reset_behind_what_came() -> None:
    async with calling() as call:
        await send(call.target, b"half an answer")
        assert await receive(call.caller, 4) == b"half"
        call.ends.agent.close("test")
        assert await expect_reset(call.caller) == b" an answer"
        assert await expect_reset(call.target) == b""
        await call.wait(End.LINK_LOST, End.LINK_LOST)


async def test_a_drained_link_carries_its_calls_to_their_end() -> None:
    async with calling() as call:
        call.ends.opener.drain(DrainReason.SHUTDOWN)
        call.ends.server.pump()
        await send(call.caller, b"x")
        assert await receive(call.target, 1) == b"x"
        call.caller.close()
        call.target.close()
        await call.wait(End.FINISHED, End.FINISHED)


async def test_cancelled_both_sides_are_reset() -> None:
    async with calling() as call:
        await send(call.caller, b"x")
        assert await receive(call.target, 1) == b"x"
        call.scope.cancel()
        await expect_reset(call.caller)
        await expect_reset(call.target)
        await call.wait(End.CANCELLED, End.REMOTE_RESET)


async def test_an_owner_that_is_cancelled_resets_both_sides() -> None:
    async with calling() as call:
        await send(call.caller, b"x")
        assert await receive(call.target, 1) == b"x"
        call.far_scope.cancel()
        await expect_reset(call.caller)
        await expect_reset(call.target)
        await call.wait(End.REMOTE_RESET, End.CANCELLED)


async def test_an_owner_that_is_cancelled_during_the_drain_after_a_reset(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with calling() as call:
        call.target.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.move_on_after(0.2):
            await send(call.caller, bytes(64 * MIB))
        close_with_reset(call.caller)
        with trio.fail_after(5):
            while call.far.end_cause is None:
                await trio.sleep(0.2)
        assert not call.done["far"].is_set()
        call.far_scope.cancel()
        await call.wait(End.LOCAL_RESET, End.REMOTE_RESET)
        await expect_reset(call.target)


async def test_cancelled_during_the_drain_after_a_reset(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with calling() as call:
        call.caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trio.move_on_after(0.2):
            await send(call.target, bytes(64 * MIB))
        close_with_reset(call.target)
        with trio.fail_after(5):
            while call.near.end_cause is None:
                await trio.sleep(0.2)
        assert not call.done["near"].is_set()
        call.scope.cancel()
        await call.wait(End.REMOTE_RESET, End.LOCAL_RESET)
        await expect_reset(call.caller)


# --- load ----------------------------------------------------------------------------------------


async def test_bulk_both_ways_by_digest() -> None:
    size, block = 100 * MIB, os.urandom(MIB)

    async def pour(sock: socket.socket, seed: int) -> bytes:
        digest = hashlib.blake2b()
        for index in range(size // MIB):
            piece = (seed * 1000 + index).to_bytes(8, "big") + block[8:]
            digest.update(piece)
            await send(sock, piece)
        sock.shutdown(socket.SHUT_WR)
        return digest.digest()

    async def drink(sock: socket.socket) -> bytes:
        digest, buffer = hashlib.blake2b(), memoryview(bytearray(MIB))
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not (count := sock.recv_into(buffer)):
                return digest.digest()
            digest.update(buffer[:count])

    async with calling() as call:
        digests: dict[str, bytes] = {}

        async def note(name: str, work: Callable[..., object], *args: object) -> None:
            digests[name] = await work(*args)  # type: ignore[misc]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "asked", pour, call.caller, 1)
            nursery.start_soon(note, "answered", pour, call.target, 2)
            nursery.start_soon(note, "heard", drink, call.target)
            nursery.start_soon(note, "got", drink, call.caller)
        assert digests["asked"] == digests["heard"] != digests["answered"] == digests["got"]
        await call.wait(End.FINISHED, End.FINISHED)
        assert call.counts() == (size, size)


async def test_a_peer_that_never_reads_bounds_what_is_taken() -> None:
    limits = WireLimits(max_window=MIB // 8, max_kept=MIB // 8)
    async with calling(limits) as call:
        sent = 0
        with trio.move_on_after(0.5):
            while True:
                await trio.lowlevel.wait_writable(call.caller)
                sent += call.caller.send(bytes(MIB))
        # Four kernel buffers of a few MiB, and the stream's smallest window.
        assert sent < 24 * MIB
        assert call.ends.answering.budget.used <= limits.max_window + limits.max_kept


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_what_is_kept_is_not_much_less_than_the_memory_that_it_takes() -> None:
    async with calling() as call:
        deaf = call.ends.agent._watch
        assert deaf is not None
        deaf.close()
        outgoing = call.near._stream.outgoing
        outgoing.limit = 1 << 30
        while outgoing.room() >= 200_000:
            written = outgoing.written
            await send(call.caller, bytes(200_000))
            with trio.fail_after(5):
                while outgoing.written < written + 200_000:
                    await trio.sleep(0.001)
        pieces = [*((data, segment) for _, data, segment in outgoing._kept), *outgoing._queue]
        held = sum(len(data if segment is None else segment) for data, segment in pieces)
        kept = outgoing.written - outgoing.acknowledged
        assert kept > MIB
        assert held < 1.5 * kept


async def test_a_thousand_quick_calls_leave_nothing() -> None:
    async with linked() as ends:
        warm = await start(ends)
        warm.caller.close()
        warm.target.close()
        await warm.wait(End.FINISHED, End.FINISHED)
        descriptors = _descriptors()
        for _ in range(20):
            calls = [await start(ends) for _ in range(50)]
            for index, call in enumerate(calls):
                if index % 5 == 0:
                    close_with_reset(call.caller)
                elif index % 5 == 1:
                    await send(call.caller, b"x" * index)
                call.caller.close()
                call.target.close()
            with trio.fail_after(5):
                for call in calls:
                    for event in call.done.values():
                        await event.wait()
        with trio.fail_after(5):
            while ends.opening.streams or ends.answering.streams:
                await trio.sleep(0.01)
        assert ends.opening.budget.used == ends.answering.budget.used == 0
        assert _descriptors() <= descriptors
        # The links' own tasks, and nobody else.
        assert len(ends.nursery.child_tasks) == 2


async def test_who_reset_it_after_its_end_has_not_finished() -> None:
    """Also where the poller has not said so yet, as the other direction ends."""
    async with linked() as ends, trio.open_nursery() as nursery:
        near, far = await ends.stream()
        target, far_sock = tcp_pair()
        ended, over = SpliceResult(), trio.Event()

        def note(result: SpliceResult) -> None:
            ended.end = result.end
            over.set()

        OwnedSplice(Owner(nursery), far.release(), far_sock, note, caller_is_far=True).start()
        await near.send_all(b"what the target never reads")
        target.shutdown(socket.SHUT_WR)
        with trio.fail_after(5):
            assert await near.receive_some() == b""
        await near.send_eof()
        # Nobody else's turn has come: the link still has to be read, and the socket to be asked.
        close_with_reset(target)
        with trio.fail_after(5):
            await over.wait()
        assert ended.end is End.LOCAL_RESET


async def test_without_memory_to_read_into_one_connection_ends_and_not_its_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*_: object, **__: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    async with linked() as ends, trio.open_nursery() as nursery:
        _, far = await ends.stream()
        other, other_far = await ends.stream()
        target, far_sock = tcp_pair()
        over, stream = trio.Event(), far.release()
        credit, stream.outgoing.limit = stream.outgoing.limit, 0
        OwnedSplice(Owner(nursery), stream, far_sock, lambda _: over.set(), caller_is_far=True).start()
        ends.answering.pool, stream.outgoing.limit = SegmentPool(), credit
        monkeypatch.setattr(mmap, "mmap", exhausted)
        # The peer's credit has come: the link's reader says so.
        assert stream.face is not None
        stream.face.on_room()
        with trio.fail_after(5):
            await over.wait()
            await other.send_all(b"goes on")
            assert await other_far.receive_some() == b"goes on"
        target.close()


async def test_one_that_has_ended_is_freed_at_once() -> None:
    class NeverKnows:
        def __call__(self, data: bytes) -> None:
            return None

    async with linked() as ends, trio.open_nursery() as nursery:
        near, far = await ends.stream()
        caller, near_sock = tcp_pair()
        owner = Owner(nursery)
        asked, ended = NeverKnows(), trio.Event()
        held = weakref.ref(asked)
        stream = near.release()
        OwnedSplice(owner, stream, near_sock, lambda _: ended.set(), is_pooled=asked).start()
        del asked, near
        assert held() is not None
        gc.disable()
        try:
            await far.send_eof()
            caller.close()
            with trio.fail_after(5):
                await ended.wait()
            assert held() is None
        finally:
            gc.enable()
