"""A link under load, in silence, and at its end; no stream harms it, or its neighbours."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib.abc
import logging
import os
import random
import socket
import struct
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import pytest
import trio
import trio.testing

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.links import MIB, Ends, Tls, alive, linked, tcp_pair
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.control_plane import ControlPlane
from tunnel_wire.flow import SEGMENT
from tunnel_wire.limits import WireLimits
from tunnel_wire.link import Link
from tunnel_wire.link_buffers import PIECE
from tunnel_wire.link_tls import BULK
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.sockets import NOT_SENT_LOW_WATER
from tunnel_wire.stream_state import EndCause
from tunnel_wire.tls import send_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from _typeshed import ReadableBuffer

    from tunnel_wire.flow import Buffer
    from tunnel_wire.stream import TunnelStream

WAYS: tuple[Tls, ...] = ("ours", "OpenSSL")
WIDE = WireLimits(initial_window=8 * MIB, kept_floor=8 * MIB, max_queued=8 * MIB)


async def echoes(near: TunnelStream, far: TunnelStream, data: bytes = b"ping") -> bool:
    with trio.fail_after(10):
        await near.send_all(data)
        received = b""
        while len(received) < len(data):
            received += await far.receive_some()
        return received == data


def die(link: Link) -> None:
    """End like a killed process: no goodbye, and a reset."""
    libc = ctypes.CDLL(None, use_errno=True)
    nowhere = struct.pack("=H14x", socket.AF_UNSPEC)
    assert libc.connect(link._sock.fileno(), nowhere, len(nowhere)) == 0, os.strerror(ctypes.get_errno())
    link.close("died")


async def wait_ended(ends: Ends, *names: str, seconds: float = 20) -> None:
    with trio.fail_after(seconds):
        while not all(name in ends.ended for name in names):
            await trio.sleep(0.1)


@dataclass
class Relay:
    """The network between both ends: it can stop forwarding without a word, or be slow."""

    stopped: bool = False
    """Takes everything and forwards nothing, like a firewall that drops."""
    wedged: bool = False
    """Takes nothing any more."""
    rate: float = 0.0
    """Bytes a second towards the agent; 0 is without limit."""
    forwarded: int = 0

    async def run(self, source: socket.socket, sink: socket.socket, *, slow: bool) -> None:
        try:
            await self._carry(source, sink, slow=slow)
        except OSError:
            pass  # one end has gone

    async def _carry(self, source: socket.socket, sink: socket.socket, *, slow: bool) -> None:
        while True:
            await trio.lowlevel.wait_readable(source)
            if self.wedged:
                await trio.sleep_forever()
            data = source.recv(16 * 1024)
            if self.stopped:
                continue
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            if slow and self.rate:
                await trio.sleep(len(data) / self.rate)
            if slow:
                self.forwarded += len(data)
            await send_all(sink, data)


def narrow_pair() -> tuple[socket.socket, socket.socket]:
    """What stands in the kernel is ahead of everything: little, as on a slow line."""
    with socket.socket() as listener, socket.socket() as one:
        # Before connecting: a window once announced is not taken back.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * 1024)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one.connect(listener.getsockname())
        other, _ = listener.accept()
        one.setblocking(False)
        other.setblocking(False)
        return socket.socket(fileno=one.detach()), other


@asynccontextmanager
async def relayed(
    limits: WireLimits | None = None, *, resumes: bool = False
) -> AsyncIterator[tuple[Ends, Relay]]:
    near, near_relay = narrow_pair()
    far, far_relay = tcp_pair()
    relay = Relay()
    with near_relay, far_relay:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: relay.run(near_relay, far_relay, slow=True))
            nursery.start_soon(lambda: relay.run(far_relay, near_relay, slow=False))
            async with linked(limits or WireLimits(), sockets=(near, far), resumes=resumes) as ends:
                yield ends, relay
            nursery.cancel_scope.cancel()


# --- streams and their neighbours -----------------------------------------------------------------


async def test_one_stalled_reader_among_a_hundred_changes_nothing_for_the_others() -> None:
    async with linked() as ends:
        stalled, unread = await ends.stream()
        pairs = [await ends.stream() for _ in range(99)]
        with trio.move_on_after(0.2):
            await stalled.send_all(bytes(64 * MIB))
        data = os.urandom(MIB // 2)

        async def check(near: TunnelStream, far: TunnelStream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, data)
                received = bytearray()
                while len(received) < len(data):
                    received += await far.receive_some()
            assert received == data

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for pair in pairs:
                    nursery.start_soon(check, *pair)
        limits = ends.answering.limits
        assert unread._stream.incoming.queued == limits.initial_window
        assert stalled._stream.outgoing.queued == 0
        assert stalled.room() == 0


async def test_one_byte_frames_cost_no_more_memory_than_their_window() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        for _ in range(5000):
            near.write(b"x")
            near.flush()
        await trio.testing.wait_all_tasks_blocked()
        assert far._stream.incoming.queued == 5000
        assert len(far._stream.incoming.queue) < 5
        assert await far.receive_some(10) == b"x" * 10
        near.write(b"y")
        near.end()
        rest = b"".join([piece async for piece in far])
        assert rest == b"x" * 4990 + b"y"


async def test_cancelling_senders_and_receivers_harms_nobody() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        victim_near, victim_far = await ends.stream()
        for attempt in range(50):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(victim_near.send_all, os.urandom(300_000))
                    nursery.start_soon(victim_far.receive_some)
                    nursery.start_soon(victim_near.receive_some)
                    for _ in range(attempt % 7):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            assert await echoes(near, far)
            assert await echoes(far, near)
        # The victim itself still works, too.
        await victim_near.send_eof()
        with trio.fail_after(5):
            async for _ in victim_far:
                pass
        assert await echoes(victim_far, victim_near)
        assert not ends.ended


async def test_cancelling_an_open_leaves_nothing() -> None:
    async with linked() as ends:
        from tunnel_wire.stream import open_stream

        with trio.move_on_after(0.05) as scope:
            await open_stream(ends.opener, ends.opening, "target", 80)
        assert scope.cancelled_caught
        with trio.fail_after(10):
            while not ends.waiting[0].scope.cancel_called:
                await trio.lowlevel.checkpoint()
        assert not ends.opening.streams
        assert not ends.answering.streams
        near, far = await ends.stream()
        assert await echoes(near, far)


def low_water(link: Link) -> int:
    return link._sock.getsockopt(socket.IPPROTO_TCP, 25)


# --- turn-taking and frame sizes --------------------------------------------------------------------


async def test_frames_shrink_on_a_slow_line_and_small_writes_overtake_bulk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.01
    async with relayed(WIDE) as (ends, relay):
        bulk, sink = await ends.stream()
        near, far = await ends.stream()
        relay.rate = 1_000_000
        await bulk.send_all(bytes(6 * MIB))
        with trio.fail_after(10):
            while ends.server._frame_size.target > WIDE.min_frame:
                await trio.sleep(0.05)
        assert low_water(ends.server) == NOT_SENT_LOW_WATER
        queued = bulk._stream.outgoing.queued
        assert queued > 3 * MIB
        before = relay.forwarded
        await near.send_all(b"keystroke")
        with trio.fail_after(5):
            assert await far.receive_some() == b"keystroke"
        # One frame that is encrypted already, and what the kernels hold: not the bulk.
        assert relay.forwarded - before < 200_000
        assert sink._stream.incoming.queued < 4 * MIB


async def test_frames_grow_on_a_fast_line() -> None:
    async with linked(WIDE) as ends:
        near, far = await ends.stream()
        assert ends.server._frame_size.target < MIB // 4

        async def drink() -> None:
            async for _ in far:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drink)
            largest = 0
            for _ in range(60):
                await near.send_all(bytes(4 * MIB))
                largest = max(largest, ends.server._frame_size.target)
                # Or BBR takes a link that is never behindhand for one that has little to send.
                assert low_water(ends.server) == max(
                    NOT_SENT_LOW_WATER, min(ends.server._frame_size.target, SEGMENT)
                )
            await near.send_eof()
        assert largest >= MIB // 2


class Noting(socket.socket):
    """It notes how much is given to it at once."""

    __slots__ = ("sizes",)

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        self.sizes.append(len(memoryview(data)))
        return super().send(data, flags)


@pytest.mark.parametrize("tls", WAYS)
async def test_a_whole_read_of_a_socket_goes_out_at_once(tls: Tls) -> None:
    async with linked(WIDE, tls=tls) as ends:
        near, _ = await ends.stream()
        noting = Noting(fileno=ends.server._sock.detach())
        noting.setblocking(False)
        noting.sizes = []
        ends.server._sock = noting
        ends.server._frame_size.target = MIB
        near.write(bytes(SEGMENT))
        near.flush()
        # With its frame's header and its records' own: no crumbs are left for a second send.
        assert near._stream.outgoing.queued == 0
        assert SEGMENT < noting.sizes[0] <= PIECE
        assert len(noting.sizes) == 1


@pytest.mark.parametrize("tls", [*WAYS, "ours later"])
async def test_bulk_arrives_whoever_encrypts_it(tls: Tls) -> None:
    data = random.Random(tls).randbytes(MIB)
    async with linked(WIDE, tls=tls) as ends:
        near, far = await ends.stream()

        async def carry(source: TunnelStream, sink: TunnelStream) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pour, source, data)
                digest = hashlib.sha256()
                async for piece in sink:
                    digest.update(piece)
            assert digest.digest() == hashlib.sha256(24 * data).digest()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(carry, near, far)
                nursery.start_soon(carry, far, near)
        taken_over = [link._tls.taken_over for link in (ends.server, ends.agent)]
        assert taken_over == [tls != "OpenSSL"] * 2
        if tls == "ours later":
            tls_of = ends.server._tls
            assert BULK <= tls_of.sent + tls_of.received < 40 * MIB, "it was in the middle"


class Missing(importlib.abc.MetaPathFinder):
    """Lets one module fail as it is imported."""

    def __init__(self, name: str, error: Exception) -> None:
        self._name = name
        self._error = error

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == self._name:
            raise self._error


@pytest.mark.parametrize(
    "error", [ImportError("cryptography is not here"), OSError(24, "Too many open files"), ValueError("odd")]
)
async def test_a_link_is_kept_where_what_encrypts_bulk_cant_be_loaded(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with linked(WIDE, tls="ours later") as ends:
        monkeypatch.delitem(sys.modules, "tunnel_wire.records")
        monkeypatch.setattr(sys, "meta_path", [Missing("tunnel_wire.records", error), *sys.meta_path])
        near, far = await ends.stream()
        received = 0
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pour, near, bytes(MIB))
                while part := await far.receive_some():
                    received += len(part)
                while caplog.text.count(str(error)) < 2:
                    await trio.sleep(0.01)
        assert received == 24 * MIB
        assert not ends.server._tls.taken_over
        assert not ends.ended
    assert "OpenSSL goes on encrypting a link with bulk, which is slower" in caplog.text


async def _pour(sink: TunnelStream, data: bytes) -> None:
    for _ in range(24):
        await sink.send_all(data)
    await sink.send_eof()


# --- life ------------------------------------------------------------------------------------------


async def test_silence_is_noticed_at_both_ends_within_15_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.005
    async with relayed() as (ends, relay):
        near, _ = await ends.stream()
        await trio.sleep(100)
        relay.stopped = True
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        await wait_ended(ends, "server", "agent")
        assert trio.current_time() - began <= 15
        for ended in ends.ended.values():
            assert "nothing received for 12 s" in str(ended)
            assert not ended.clean


async def test_silence_is_noticed_while_everything_is_full(autojump_clock: trio.testing.MockClock) -> None:
    """The heartbeat's PING is stuck behind bulk that nobody takes."""
    autojump_clock.autojump_threshold = 0.01
    async with relayed(WIDE) as (ends, relay):
        near, _ = await ends.stream()
        relay.wedged = True
        await near.send_all(bytes(4 * MIB))
        assert near._stream.outgoing.queued > 3 * MIB
        began = trio.current_time()
        await wait_ended(ends, "server", "agent")
        assert trio.current_time() - began <= 15


class Turnstile(trio.abc.Instrument):
    """Counts the turns of the event loop."""

    turns = 0

    def before_io_wait(self, timeout: float) -> None:
        self.turns += 1


async def test_an_idle_link_lives_for_hours_and_does_not_spin(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.001
    async with linked() as ends:
        loop = Turnstile()
        trio.lowlevel.add_instrument(loop)
        hours = 1
        await trio.sleep(hours * 3600)
        trio.lowlevel.remove_instrument(loop)
        assert not ends.ended
        assert 100 < loop.turns < hours * 3600
        near, far = await ends.stream()
        assert await echoes(near, far)


async def test_a_deadline_that_rounding_leaves_behind_does_not_spin(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with linked() as ends:
        # The clock stands still between jumps: a timer that waits for a time that has come would never end.
        take = ends.opener.take

        def take_and_be_due(size: int) -> list[Buffer]:
            ends.opener._life.due = trio.current_time()
            return take(size)

        ends.opener.take = take_and_be_due
        ends.server.pump()
        with trio.fail_after(1):
            await trio.sleep(0.5)


# --- ends ------------------------------------------------------------------------------------------


async def test_closing_is_clean_for_both() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        ends.server.close("we are done")
        await wait_ended(ends, "server", "agent")
        assert str(ends.ended["server"]) == "we are done"
        assert str(ends.ended["agent"]) == "the other end closed the link"
        assert all(ended.clean for ended in ends.ended.values())
        for stream in (near, far):
            with pytest.raises(trio.BrokenResourceError, match="the link was lost"):
                await stream.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"x")
        assert ends.answerer.draining, "GOAWAY came before the end"


async def test_what_came_before_the_end_is_delivered() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        near.write(b"last words")
        near.flush()
        ends.server.close("done")
        await wait_ended(ends, "agent")
        assert await far.receive_some() == b"last words"
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


@pytest.mark.parametrize("tls", WAYS)
@pytest.mark.parametrize("how", ["cut", "reset", "garbage", "half a record"])
async def test_a_link_that_breaks(how: str, tls: Tls) -> None:
    async with linked(tls=tls) as ends:
        near, far = await ends.stream()
        sock = ends.server._sock
        if how == "half a record":
            sock.send(ends.server._tls.seal([bytes(1000)], 1000)[:500])
        if how == "garbage":
            sock.send(b"garbage")
        elif how == "reset":
            die(ends.server)
        else:
            sock.shutdown(socket.SHUT_WR)
        await wait_ended(ends, "agent")
        expected = {"reset": "the connection was lost: Connection reset", "garbage": "TLS: "}
        assert str(ends.ended["agent"]).startswith(expected.get(how, "the connection was cut"))
        assert not ends.ended["agent"].clean
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        await wait_ended(ends, "server")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_a_peer_that_breaks_the_protocol_is_told_and_nothing_it_sent_behind_is_read() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        # DATA on a stream that was never opened, then good DATA in the same record.
        bad = bytes.fromhex("000001 00 00 000000ff".replace(" ", "")) + b"x"
        good = (
            bytes.fromhex("000001 00 00".replace(" ", "")) + near._stream.stream_id.to_bytes(4, "big") + b"y"
        )
        ends.server._sock.send(ends.server._tls.seal([bad + good], len(bad + good)))
        await wait_ended(ends, "agent", "server")
        assert "DATA on idle stream 255" in str(ends.ended["agent"])
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()


def flood(link: Link) -> bytes:
    tls = link._tls
    if tls._sealer is not None:
        return b"".join(tls._sealer.update() for _ in range(2500))
    assert tls._pump is not None
    assert tls._pump._ssl is not None
    for _ in range(2500):
        key_updates.ask_for_new_keys(tls._pump._ssl)
    return tls._pump.ciphertext()


@pytest.mark.skipif(not key_updates.available, reason="needs an ordinary build of CPython")
@pytest.mark.parametrize("tls", WAYS)
async def test_a_flood_of_key_updates_whether_its_answers_are_read_or_not(tls: Tls) -> None:
    async with linked(tls=tls) as ends:
        ends.server._sock.send(flood(ends.server))
        await wait_ended(ends, "agent", "server")
        assert str(ends.ended["agent"]) == "a flood of TLS key updates (ENHANCE_YOUR_CALM)"


async def test_a_defect_in_a_callback_ends_the_link_and_not_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with linked() as ends:
        near, far = await ends.stream()

        def defect(data: memoryview) -> None:
            raise RuntimeError("a defect")

        far.on_data = defect  # type: ignore[method-assign]
        await near.send_all(b"x")
        await wait_ended(ends, "agent", "server")
        assert str(ends.ended["agent"]) == "an internal error; the log has more"
        assert [record.levelno for record in caplog.records] == [logging.ERROR]


@pytest.mark.parametrize("where", ["what comes", "an event", "what goes out"])
async def test_a_defect_in_the_protocol_does_too(where: str, caplog: pytest.LogCaptureFixture) -> None:
    async with linked() as ends, linked() as others:
        near, far = await ends.stream()
        neighbours = await others.stream()
        take = ends.answerer.take

        def defect(*_: object) -> NoReturn:
            ends.answerer.take = take  # the last words are to be said
            raise RuntimeError("a defect")

        match where:
            case "what comes":
                # Of what takes a request, h2 is never compiled, and can be had to fail on every build.
                ends.answerer._h2.receive_headers = defect  # type: ignore[method-assign]
            case "an event":
                ends.agent._on_request = defect
            case _:
                ends.answerer.take = defect
        ends.opener.open_stream(ends.opening, "target", 80)
        ends.server.pump()
        await wait_ended(ends, "agent", "server")
        assert "serving a socket failed" in caplog.text
        assert "RuntimeError: a defect" in caplog.text
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        assert str(ends.ended["agent"]) == "an internal error; the log has more"
        assert ends.agent.is_last
        assert near.end_cause is far.end_cause is EndCause.LINK_LOST
        assert await echoes(*neighbours)
        assert not others.ended


async def test_streams_hear_of_the_end_whatever_fails(caplog: pytest.LogCaptureFixture) -> None:
    async with linked(resumes=True) as ends:
        near, _ = await ends.stream()

        def take(size: int) -> list[Buffer]:
            raise RuntimeError("a defect")

        ends.opener.take = take
        ends.answerer.probe(trio.current_time())
        ends.agent.pump()
        await wait_ended(ends, "server")
        assert "a link's last words failed" in caplog.text
        assert near.end_cause is EndCause.LINK_LOST
        assert not ends.opening.streams


@pytest.mark.parametrize("how", ["closed", "cut", "silent"])
async def test_an_ended_link_leaves_nothing_to_collect(how: str) -> None:
    gc.collect()
    gc.disable()
    kinds = (Link, OpenerConnection, AnswererConnection, ControlPlane)
    before = alive(*kinds)
    try:
        async with linked(resumes=True) as ends:
            near, far = await ends.stream()
            assert await echoes(near, far)
            near.close()
            far.close()
            made = {Link: 2, OpenerConnection: 1, AnswererConnection: 1, ControlPlane: 2}
            assert alive(*kinds) - before == made
            if how == "closed":
                ends.server.close("over")
            elif how == "silent":
                ends.opener._life.last_received -= 60
                ends.server._on_time()
            else:
                ends.server._sock.shutdown(socket.SHUT_RDWR)
            await wait_ended(ends, "server", "agent")
            ends.ended.clear()  # they know the frames that they came through
            ends.agent._on_request = None  # it knows `ends`
        del near, far, ends
        assert alive(*kinds) == before
    finally:
        gc.enable()


async def test_cancelled_it_says_goodbye() -> None:
    async with linked() as ends:
        ends.server._scope.cancel()
        await wait_ended(ends, "agent", "server")
        assert ends.ended["agent"].clean


@pytest.mark.parametrize("writer", ["who ends", "the other", "nobody"])
@pytest.mark.parametrize("who", ["server", "agent"])
@pytest.mark.parametrize("how", ["closed", "cancelled", "cancelled with its users", "a defect"])
async def test_an_end_for_good_ends_streams_however_busy_the_link_is(how: str, who: str, writer: str) -> None:
    sockets = narrow_pair() if (who == "server") is (writer == "who ends") else narrow_pair()[::-1]
    async with linked(WIDE, sockets, resumes=True) as ends:
        pairs = [await ends.stream() for _ in range(2)]
        near, far = pairs[0]
        own, others, link = (near, far, ends.server) if who == "server" else (far, near, ends.agent)
        if writer != "nobody":
            writing = own if writer == "who ends" else others
            writing.write(bytes(4 * MIB))
            writing.flush()
            # The kernel has taken a part of it, and the rest waits.
            assert (link if writing is own else ends.agent if who == "server" else ends.server)._unsent
        if how == "closed":
            link.close("stopping", for_good=True)
        elif how == "a defect":
            link._on_defect()
        else:
            if how == "cancelled with its users":
                for pair in pairs:
                    (pair[0] if who == "server" else pair[1]).reset()
            link._scope.cancel()
        await wait_ended(ends, "server", "agent")
        for pair in pairs:
            ended = pair[1] if who == "server" else pair[0]
            assert ended.end_cause is EndCause.PEER_RESET
        assert not ends.opening.streams
        assert not ends.answering.streams


async def test_a_farewell_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    async with relayed(resumes=True) as (ends, relay):
        near, _ = await ends.stream()
        relay.wedged = True
        near.write(bytes(near.room()))
        near.flush()
        began = trio.current_time()
        ends.server.close("stopping", for_good=True)
        await trio.testing.wait_all_tasks_blocked()
        assert near.end_cause is EndCause.LINK_LOST, "its user does not wait for it"
        await wait_ended(ends, "server")
        assert trio.current_time() - began <= 1.2


async def test_a_complaint_gets_through_to_who_is_sending(autojump_clock: trio.testing.MockClock) -> None:
    async with linked(WIDE, narrow_pair()) as ends:
        near, _ = await ends.stream()
        near.write(bytes(4 * MIB))
        near.flush()
        assert ends.server._unsent
        ends.agent.pump()
        bad = bytes.fromhex("000001 00 00 000000ff") + b"x"
        ends.server._unsent = b"".join([ends.server._unsent, ends.server._tls.seal([bad], len(bad))])
        await wait_ended(ends, "agent", "server")
        assert "DATA on idle stream 255" in str(ends.ended["agent"])
        assert "DATA on idle stream 255" in str(ends.ended["server"])


async def test_a_socket_that_fails_in_the_middle_of_sending() -> None:
    async with linked(WIDE) as ends:
        near, _ = await ends.stream()

        async def pour() -> None:
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                while True:
                    await near.send_all(bytes(MIB))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour)
            await trio.sleep(0.05)
            die(ends.agent)
        await wait_ended(ends, "server")
        assert not ends.ended["server"].clean
        assert ends.opening.budget.used == 0
