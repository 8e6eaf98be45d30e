"""Places among strangers: the silent go first, the patient wait, and nobody blocks the door for long."""

import logging

import pytest
import trio
import trio.testing

from tunnel_daemon.crowd import Crowd, Use


def silent() -> Use:
    return Use.SILENT


def served() -> Use:
    return Use.SERVED


async def test_the_oldest_silent_one_makes_room_at_once(caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(3, "handshakes")
    speaking = await crowd.enter()
    first, second = await crowd.enter(silent), await crowd.enter(silent)
    for leaving, staying in ((first, second), (second, speaking)):
        await crowd.enter()
        assert leaving.scope.cancel_called
        assert not staying.scope.cancel_called
        assert len(crowd) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "all 3 places for handshakes are taken" in caplog.text


async def test_whoever_speaks_gets_a_second(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(2, "handshakes")
    first = await crowd.enter()
    await trio.sleep(0.4)
    second = await crowd.enter()
    await crowd.enter()
    assert trio.current_time() == pytest.approx(1.0, abs=0.01)
    assert first.scope.cancel_called
    assert not second.scope.cancel_called


async def test_a_place_that_is_left_is_taken_without_waiting(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(1, "handshakes")
    first = await crowd.enter()
    entered: list[float] = []

    async def wait() -> None:
        guest = await crowd.enter()
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


async def test_who_will_not_wait_is_told_that_all_places_are_in_use(
    autojump_clock: trio.testing.MockClock,
) -> None:
    crowd = Crowd(1, "API connections")
    first = crowd.enter_nowait()
    assert first is not None
    assert crowd.enter_nowait() is None
    await trio.sleep(1)
    assert crowd.enter_nowait() is not None
    assert first.scope.cancel_called


async def test_cancelled_it_takes_no_place() -> None:
    crowd = Crowd(1, "handshakes")
    await crowd.enter()
    with trio.CancelScope() as scope:
        scope.cancel()
        await crowd.enter()
    assert scope.cancelled_caught
    assert len(crowd) == 1


async def test_whoever_waits_for_us_keeps_its_place(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(2, "HTTP connections")
    waiting = await crowd.enter(served)
    talking = await crowd.enter()
    await trio.sleep(5)
    assert crowd.enter_nowait() is not None
    assert talking.scope.cancel_called
    assert not waiting.scope.cancel_called


async def test_who_has_been_answered_makes_room_in_time(autojump_clock: trio.testing.MockClock) -> None:
    crowd = Crowd(1, "HTTP connections")
    guest = await crowd.enter(served)
    await trio.sleep(5)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crowd.enter)
        await trio.sleep(0.5)
        assert not guest.scope.cancel_called
        guest.use = silent
    assert guest.scope.cancel_called
    assert trio.current_time() == pytest.approx(6, abs=0.01)
