"""TunnelStream keeps trio's contract, and what goes in comes out."""

import hashlib
import os
import socket

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import MIB, linked
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.stream import TunnelStream, open_stream


async def test_conformance() -> None:
    async with linked() as ends:
        await trio.testing.check_half_closeable_stream(ends.stream, None)


async def test_conformance_clogged() -> None:
    async with linked() as ends:
        await trio.testing.check_half_closeable_stream(ends.stream, ends.clogged_stream)


async def _pour(stream: TunnelStream, size: int) -> str:
    digest = hashlib.sha256()
    left = size
    while left:
        piece = os.urandom(min(left, 300_000))
        digest.update(piece)
        await stream.send_all(piece)
        left -= len(piece)
    await stream.send_eof()
    return digest.hexdigest()


async def _drink(stream: TunnelStream) -> str:
    digest = hashlib.sha256()
    async for piece in stream:
        digest.update(piece)
    return digest.hexdigest()


async def test_bytes_both_ways_at_once() -> None:
    digests: dict[str, str] = {}

    async def note(name: str, result: object) -> None:
        digests[name] = await result  # type: ignore[misc]

    async with linked() as ends:
        near, far = await ends.stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, "near sent", _pour(near, 20 * MIB))
            nursery.start_soon(note, "far sent", _pour(far, 20 * MIB))
            nursery.start_soon(note, "near got", _drink(near))
            nursery.start_soon(note, "far got", _drink(far))
        assert digests["near sent"] == digests["far got"]
        assert digests["far sent"] == digests["near got"]
        with trio.fail_after(10):
            while ends.opening.streams or ends.answering.streams:
                await trio.sleep(0.01)
        assert ends.opening.budget.used == ends.answering.budget.used == 0


async def test_conformance_over_a_unix_socket() -> None:
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    async with linked(sockets=(near, far)) as ends:
        await trio.testing.check_half_closeable_stream(ends.stream, ends.clogged_stream)


async def test_a_reset_is_told_behind_the_data_at_once() -> None:
    """At once: not with the link's next heartbeat."""
    async with linked() as ends:
        near, far = await ends.stream()
        await near.send_all(b"before")
        near.reset(behind_data=True)
        with trio.fail_after(10):
            assert await far.receive_some() == b"before"
            with pytest.raises(trio.BrokenResourceError, match="reset by the other end"):
                await far.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await far.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")


async def test_closing_with_unread_data_is_a_reset() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        await near.send_all(b"unread")
        await trio.testing.wait_all_tasks_blocked()
        await far.aclose()
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def test_who_waits_for_the_same_news_hears_it() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        heard: list[object] = []

        async def wait() -> None:
            heard.append(await far.wait_arrival())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_eof()
        assert heard == [None, None]


async def test_broken_is_told_without_anybody_waiting() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        told = trio.Event()
        far.on_broken = told.set
        near.reset()
        with trio.fail_after(10):
            await told.wait()


async def test_released_it_is_closed_and_its_stream_is_not() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        waiting: list[type[Exception]] = []

        async def wait() -> None:
            try:
                await far.receive_some()
            except trio.ClosedResourceError as exc:
                waiting.append(type(exc))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            stream = far.release()
        assert waiting == [trio.ClosedResourceError]
        with pytest.raises(trio.ClosedResourceError):
            await far.send_all(b"x")
        again = TunnelStream(stream)
        await near.send_all(b"there")
        assert await again.receive_some() == b"there"
        await again.send_all(b"back")
        assert await near.receive_some() == b"back"


async def test_pieces_taken_byte_by_byte() -> None:
    async with linked() as ends:
        near, far = await ends.stream()
        data = os.urandom(3000)
        await near.send_all(data)
        received = bytearray()
        for index in range(3000):
            if index == 10:
                await near.send_all(b"more")
            received += await far.receive_some(1)
        assert received == data
        assert await far.receive_some() == b"more"


@pytest.mark.parametrize("cause", [Cause.REFUSED, Cause.NOT_ALLOWED, Cause.TIMED_OUT])
async def test_a_refusal_carries_its_cause(cause: Cause) -> None:
    async with linked() as ends:
        ends.on_request = lambda incoming: incoming.refuse(cause, "because")
        with trio.fail_after(10), pytest.raises(OpenFailed) as caught:
            await open_stream(ends.opener, ends.opening, "target", 80)
        assert (caught.value.cause, caught.value.detail) == (cause, "because")
        assert not ends.opening.streams
        assert not ends.answering.streams


async def test_a_request_that_was_called_off_cannot_be_accepted() -> None:
    async with linked() as ends:
        with trio.move_on_after(0.05):
            await open_stream(ends.opener, ends.opening, "target", 80)
        (incoming,) = ends.waiting
        with trio.fail_after(10):
            while not incoming.scope.cancel_called:
                await trio.lowlevel.checkpoint()
        with pytest.raises(OpenFailed) as caught:
            incoming.accept()
        assert caught.value.cause is Cause.CANCELLED
        incoming.refuse(Cause.FAILED)


async def test_a_link_that_ends_while_opening() -> None:
    async with linked() as ends:
        ends.on_request = lambda incoming: ends.agent.close("test")
        with trio.fail_after(10), pytest.raises(OpenFailed) as caught:
            await open_stream(ends.opener, ends.opening, "target", 80)
        assert caught.value.cause is Cause.LINK_LOST
