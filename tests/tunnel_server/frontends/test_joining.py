"""Joined streams: ends are ends, resets are resets behind their data, over TLS, TCP and the tunnel."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import linked, tcp_pair
from tests.tunnel_wire.test_tls_stream import streams as tls_streams
from tunnel_server.frontends import joining
from tunnel_server.frontends.joining import join
from tunnel_wire.client_hello import Http2Offer
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, SpliceResult
from tunnel_wire.stream import TunnelStream
from tunnel_wire.tls_stream import TlsStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tunnel_server.frontends.joining import Side

MIB = 1 << 20
PAIRS = [("tls", "tunnel"), ("tls", "tcp"), ("tcp", "tcp")]


@dataclass
class Joined:
    """The two outer ends, and the join between them, which runs."""

    caller: Side
    target: Side
    result: SpliceResult
    over: trio.Event
    scope: trio.CancelScope

    async def carried(self, to_target: int = 0, to_caller: int = 0) -> None:
        with trio.fail_after(10):
            while (self.result.to_tunnel, self.result.from_tunnel) != (to_target, to_caller):
                await trio.sleep(0.005)

    async def wait(self) -> End:
        with trio.fail_after(10):
            await self.over.wait()
        return self.result.end


def cut(side: Side) -> None:
    """A TCP reset, or the tunnel's."""
    if isinstance(side, TunnelStream):
        side.reset()
    elif isinstance(side, TlsStream):
        side.abort()
    else:
        close_with_reset(side.socket)  # type: ignore[arg-type]


@asynccontextmanager
async def joined(
    kinds: tuple[str, str], is_pooled: Callable[[bytes], bool | None] | None = None
) -> AsyncIterator[Joined]:
    async with linked() as ends, trio.open_nursery() as nursery:

        async def pair(kind: str) -> tuple[Side, Side]:
            if kind == "tunnel":
                return await ends.stream()
            if kind == "tls":
                return await tls_streams()
            one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in tcp_pair())
            return one, other

        near, caller = await pair(kinds[0])
        far, target = await pair(kinds[1])
        made = Joined(caller, target, SpliceResult(), trio.Event(), trio.CancelScope())

        async def run() -> None:
            with made.scope:
                await join(near, far, made.result, is_pooled or Http2Offer())
            made.over.set()

        nursery.start_soon(run)
        yield made
        for side in (caller, target):
            await side.aclose()
        await made.wait()


@pytest.mark.parametrize("kinds", PAIRS)
async def test_what_the_caller_says_is_looked_at_whatever_the_target_is(kinds: tuple[str, str]) -> None:
    said = b""

    def is_pooled(data: bytes) -> bool | None:
        nonlocal said
        said += data
        return True if len(said) >= 2 else None

    async with joined(kinds, is_pooled) as made:
        for count in range(1, 4):
            await made.caller.send_all(b"?")
            await made.carried(to_target=count)
    assert said == b"??"


async def everything(side: Side) -> bytes:
    data = bytearray()
    with trio.fail_after(10):
        while part := await side.receive_some():
            data += part
    return bytes(data)


async def upto_reset(side: Side) -> bytes:
    data = bytearray()
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):  # noqa: PT012
        while True:
            part = await side.receive_some()
            assert part, "a clean end"
            data += part
    return bytes(data)


@pytest.mark.parametrize("kinds", PAIRS)
async def test_bytes_and_ends_both_ways(kinds: tuple[str, str]) -> None:
    async with joined(kinds) as made:
        async with trio.open_nursery() as nursery:
            got: list[bytes] = []

            async def receive() -> None:
                got.append(await everything(made.target))

            nursery.start_soon(receive)
            await made.caller.send_all(b"x" * 3 * MIB)
            await made.caller.send_eof()
        assert got == [b"x" * 3 * MIB]
        await made.target.send_all(b"answer")
        await made.target.send_eof()
        assert await everything(made.caller) == b"answer"
        assert await made.wait() is End.FINISHED
        assert (made.result.to_tunnel, made.result.from_tunnel) == (3 * MIB, 6)


@pytest.mark.parametrize("far", ["tunnel", "tcp"])
async def test_a_caller_that_ends_and_closes_is_done_though_its_kernel_resets_our_own_end(far: str) -> None:
    """As curl does: nobody is left to read our close_notify."""
    async with joined(("tls", far)) as made:
        await made.caller.send_all(b"request")
        await made.target.send_all(b"answer")
        assert await made.caller.receive_some() == b"answer"
        await made.caller.aclose()
        assert await everything(made.target) == b"request"
        await made.target.send_eof()
        assert await made.wait() is End.FINISHED


@pytest.mark.parametrize("kinds", PAIRS)
async def test_a_reset_of_the_target_comes_behind_its_data(kinds: tuple[str, str]) -> None:
    async with joined(kinds) as made:
        await made.target.send_all(b"last words")
        await made.carried(to_caller=10)
        cut(made.target)
        assert await upto_reset(made.caller) == b"last words"
        assert await made.wait() is End.REMOTE_RESET


@pytest.mark.parametrize("kinds", PAIRS)
async def test_a_reset_of_the_caller_comes_behind_its_data(kinds: tuple[str, str]) -> None:
    async with joined(kinds) as made:
        await made.caller.send_all(b"last words")
        await made.carried(to_target=10)
        cut(made.caller)
        assert await upto_reset(made.target) == b"last words"
        assert await made.wait() is End.LOCAL_RESET


@pytest.mark.parametrize("kinds", PAIRS)
async def test_a_reset_after_half_an_end(kinds: tuple[str, str]) -> None:
    async with joined(kinds) as made:
        await made.caller.send_eof()
        assert await everything(made.target) == b""
        cut(made.target)
        assert await upto_reset(made.caller) == b""


@pytest.mark.parametrize("kinds", PAIRS)
@pytest.mark.parametrize("gone", ["caller", "target"])
async def test_a_reset_is_felt_while_everything_is_stalled(
    kinds: tuple[str, str], gone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_DRAIN_LIMIT", 0.1)
    async with joined(kinds) as made:
        stays = made.target if gone == "caller" else made.caller
        with trio.move_on_after(0.2):  # until nothing moves
            await getattr(made, gone).send_all(bytes(64 * MIB))
        cut(getattr(made, gone))
        assert await made.wait() is (End.LOCAL_RESET if gone == "caller" else End.REMOTE_RESET)
        await upto_reset(stays)


@pytest.mark.parametrize("kinds", PAIRS)
async def test_cancelled_both_are_reset(kinds: tuple[str, str]) -> None:
    async with joined(kinds) as made:
        await trio.testing.wait_all_tasks_blocked(0.02)
        made.scope.cancel()
        await upto_reset(made.caller)
        await upto_reset(made.target)
        assert await made.wait() is End.CANCELLED


async def test_what_the_target_said_before_it_refused_more_arrives() -> None:
    """As a service that answers an upload early, and closes."""
    async with joined(("tls", "tcp")) as made:
        await made.caller.send_all(b"upload")
        await made.carried(to_target=6)
        await made.target.send_all(b"too large")
        await made.target.aclose()  # with unread data: a reset follows
        assert await upto_reset(made.caller) == b"too large"
