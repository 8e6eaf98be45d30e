"""The last words on a socket: to whom they get, and for how long somebody waits for that."""

from __future__ import annotations

import array
import fcntl
import socket
import termios

import pytest
import trio
import trio.testing

from tunnel_wire import farewell

LAST = bytes(range(256)) * 800
PATIENCE, LONGEST = 1.0, 5.0


async def said(monkeypatch: pytest.MonkeyPatch, pace: float, piece: int) -> tuple[bytes, float]:
    """What comes of the last words where each `pace` seconds a piece is read, and how long it took to say."""
    near, far = socket.socketpair()
    got, took = b"", 0.0

    def unread(_: socket.socket) -> int:
        # As TCP counts; of such a socket the kernel counts what it takes in memory.
        value = array.array("i", [0])
        fcntl.ioctl(far, termios.FIONREAD, value)
        return value[0]

    async def say() -> None:
        nonlocal took
        began = trio.current_time()
        await farewell.hang_up(near, LAST, PATIENCE, LONGEST)
        took = trio.current_time() - began
        near.close()

    monkeypatch.setattr(farewell, "unacknowledged", unread)
    near.setblocking(False)
    with near, far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            # Whoever is cancelled says it all the same.
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                while not took:
                    await trio.sleep(pace)
                    left = piece
                    while left and (read := far.recv(left, socket.MSG_DONTWAIT)):
                        got += read
                        left -= len(read)
                        await trio.testing.wait_all_tasks_blocked()
                    if left:
                        break
                far.close()
    return got, took


async def test_a_slow_reader_gets_all_of_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, took = await said(monkeypatch, 0.5, len(LAST) // 7)
    assert got == LAST
    assert took == pytest.approx(4.0)


async def test_one_that_reads_nothing_is_not_waited_for(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, took = await said(monkeypatch, 100.0, 0)
    assert took == pytest.approx(PATIENCE)


async def test_nor_is_one_that_took_all_and_does_not_close(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(farewell, "unacknowledged", lambda _: 0)
    near, far = socket.socketpair()
    near.setblocking(False)
    began = trio.current_time()
    with near, far:
        await farewell.hang_up(near, b"goodbye", PATIENCE, LONGEST)
    assert trio.current_time() - began == pytest.approx(PATIENCE)


async def test_nor_is_one_that_trickles_for_long(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    got, took = await said(monkeypatch, 0.4, 5000)
    assert took == pytest.approx(LONGEST)
    assert len(got) < len(LAST)
