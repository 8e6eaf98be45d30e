"""Places among strangers: the silent go first, the patient wait, and nobody blocks the door for long."""

import logging

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import contexts
from tunnel_server.crowd import Crowd
from tunnel_wire.tls import TlsPump


def pump(*, heard: bool) -> TlsPump:
    made = TlsPump(contexts()[0], server_side=True)
    if heard:
        made.feed(b"x")
    return made


async def test_the_oldest_silent_one_makes_room_at_once(caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(3, "handshakes")
    speaking = await crowd.enter(pump(heard=True))
    first, second = await crowd.enter(pump(heard=False)), await crowd.enter(pump(heard=False))
    for leaving, staying in ((first, second), (second, speaking)):
        await crowd.enter(pump(heard=True))
        assert leaving.scope.cancel_called
        assert not staying.scope.cancel_called
        assert len(crowd) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "all 3 places for handshakes are taken" in caplog.text


async def test_whoever_speaks_gets_a_second(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(2, "handshakes")
    first = await crowd.enter(pump(heard=True))
    await trio.sleep(0.4)
    second = await crowd.enter(pump(heard=True))
    await crowd.enter(pump(heard=True))
    assert trio.current_time() == pytest.approx(1.0, abs=0.01)
    assert first.scope.cancel_called
    assert not second.scope.cancel_called


async def test_a_place_that_is_left_is_taken_without_waiting(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(1, "handshakes")
    first = await crowd.enter(pump(heard=True))
    entered: list[float] = []

    async def wait() -> None:
        guest = await crowd.enter(pump(heard=True))
        entered.append(trio.current_time())
        crowd.leave(guest)

    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(wait)
        await trio.sleep(0.25)
        crowd.leave(first)
    assert entered == [0.25, 0.25]
    assert len(crowd) == 0
    crowd.leave(first)


async def test_without_a_pump_nobody_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(1, "API connections")
    first = crowd.enter_nowait()
    assert first is not None
    assert crowd.enter_nowait() is None
    await trio.sleep(1)
    assert crowd.enter_nowait() is not None
    assert first.scope.cancel_called


async def test_cancelled_it_takes_no_place() -> None:
    crowd = Crowd(1, "handshakes")
    await crowd.enter(pump(heard=True))
    with trio.CancelScope() as scope:
        scope.cancel()
        await crowd.enter(pump(heard=True))
    assert scope.cancelled_caught
    assert len(crowd) == 1
