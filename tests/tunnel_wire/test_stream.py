"""TunnelStream keeps trio's contract, and what goes in comes out."""

import hashlib
import os

import trio
import trio.testing

from tests.tunnel_wire.links import MIB, linked
from tunnel_wire.stream import TunnelStream


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
        with trio.fail_after(2):
            while ends.opening.streams or ends.answering.streams:
                await trio.sleep(0.01)
        assert ends.opening.budget.used == ends.answering.budget.used == 0
