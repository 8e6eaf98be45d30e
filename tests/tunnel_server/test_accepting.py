"""Accepting callers: one task each, and whatever happens in one stays there."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.tunnel_server.core import meets_reset
from tunnel_server.frontends.accepting import accept_callers

if TYPE_CHECKING:
    from tunnel_wire.owner import Owner

PREPARED = [(socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)]


async def _listener(host: str = "127.0.0.1") -> trio.SocketListener:
    return (await trio.open_tcp_listeners(0, host=host))[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_callers_are_named_and_served_side_by_side(host: str) -> None:
    listener = await _listener(host)
    served: list[str] = []

    async def serve(sock: socket.socket, caller: str) -> None:
        with sock:
            served.append(caller)
            assert not sock.getblocking()
            for level, option in PREPARED:
                assert sock.getsockopt(level, option)
            await trio.lowlevel.wait_readable(sock)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve)
        port = listener.socket.getsockname()[1]
        callers = [await trio.open_tcp_stream(host, port) for _ in range(3)]
        with trio.fail_after(5):
            while len(served) < 3:
                await trio.sleep(0.01)
        shown = "[::1]" if ":" in host else host
        ports = (stream.socket.getsockname()[1] for stream in callers)
        assert sorted(served) == sorted(f"{shown}:{port}" for port in ports)
        for stream in callers:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_defect_is_a_reset_for_its_caller_alone(caplog: pytest.LogCaptureFixture) -> None:
    listener = await _listener()
    broken = True

    async def serve(sock: socket.socket, caller: str) -> None:
        if broken:
            raise RuntimeError("a defect")
        sock.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve)
        address = listener.socket.getsockname()[:2]
        await meets_reset(address)
        assert "serving a caller failed" in caplog.text
        broken = False
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(5):
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


async def test_out_of_descriptors(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    real = socket.socket.accept
    failures = [OSError(24, "Too many open files")]

    def accept(listener: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return real(listener)

    monkeypatch.setattr(socket.socket, "accept", accept)
    listener = await _listener()

    async def serve(sock: socket.socket, caller: str) -> None:
        sock.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve)
        async with await trio.open_tcp_stream(*listener.socket.getsockname()[:2]) as stream:
            with trio.fail_after(5):
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert "cannot accept a caller, which has to wait: Too many open files" in caplog.text


async def test_cancelled_the_port_is_closed_and_its_callers_too() -> None:
    listener = await _listener()
    address = listener.socket.getsockname()[:2]
    ended = trio.Event()

    async def serve(sock: socket.socket, caller: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            sock.close()
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve)
        async with await trio.open_tcp_stream(*address):
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert ended.is_set()
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream(*address)


async def test_a_listener_that_is_closed_leaves_its_callers_alone() -> None:
    listener = await _listener()
    address = listener.socket.getsockname()[:2]

    async def serve(sock: socket.socket, caller: str) -> None:
        with sock:
            await trio.lowlevel.wait_readable(sock)
            sock.send(b"still " + sock.recv(100))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept_callers, listener, serve)
            async with await trio.open_tcp_stream(*address) as stream:
                await trio.testing.wait_all_tasks_blocked()
                await listener.aclose()
                with pytest.raises(OSError, match="connect"):
                    await trio.open_tcp_stream(*address)
                await stream.send_all(b"here")
                assert await stream.receive_some() == b"still here"


async def test_who_is_served_without_a_task_has_none_and_is_cut_with_the_others() -> None:
    listener = await _listener()
    address = listener.socket.getsockname()[:2]
    held: list[Held] = []

    class Held:
        def __init__(self, owner: Owner, sock: socket.socket) -> None:
            self.sock = sock
            owner.add(self)

        def cut(self) -> None:
            self.sock.close()

    def begin(owner: Owner, sock: socket.socket, caller: str) -> bool:
        held.append(Held(owner, sock))
        return True

    async def serve(sock: socket.socket, caller: str) -> None:
        raise AssertionError("a task")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve, begin)
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(5):
                while not held:
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
    assert held[0].sock.fileno() == -1
    await stream.aclose()


async def test_a_defect_before_there_is_a_task_costs_one_caller(caplog: pytest.LogCaptureFixture) -> None:
    listener = await _listener()
    address = listener.socket.getsockname()[:2]
    defects = [RuntimeError("a defect")]

    def begin(owner: Owner, sock: socket.socket, caller: str) -> bool:
        if defects:
            raise defects.pop()
        return False

    async def serve(sock: socket.socket, caller: str) -> None:
        sock.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept_callers, listener, serve, begin)
        with trio.fail_after(5):
            with pytest.raises((OSError, trio.BrokenResourceError)):  # it may be met at once
                async with await trio.open_tcp_stream(*address) as stream:
                    await stream.receive_some()
            async with await trio.open_tcp_stream(*address) as stream:
                assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert "serving a caller failed" in caplog.text
