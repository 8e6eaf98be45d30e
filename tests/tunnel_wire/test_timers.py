"""Timers call when they are due: the time that was set last, however often it was moved."""

import logging
import math

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire.timers import Timer


def never() -> None:
    raise AssertionError("no defect was expected")


async def test_it_calls_once_and_again_when_it_is_set_again(autojump_clock: trio.testing.MockClock) -> None:
    calls: list[float] = []
    timer = Timer(lambda: calls.append(trio.current_time()), never)
    began = trio.current_time()
    timer.set(began + 5)
    await trio.sleep(20)
    assert calls == [began + 5]
    assert timer.due == math.inf
    timer.set(began + 21)
    await trio.sleep(5)
    assert calls == [began + 5, began + 21]


async def test_it_may_be_set_from_its_own_call(autojump_clock: trio.testing.MockClock) -> None:
    calls: list[float] = []

    def on_due() -> None:
        calls.append(trio.current_time())
        if len(calls) < 3:
            timer.set(trio.current_time() + 1)

    timer = Timer(on_due, never)
    began = trio.current_time()
    timer.set(began + 1)
    await trio.sleep(10)
    assert calls == [began + 1, began + 2, began + 3]


async def test_moved_later_it_waits_and_closed_it_is_silent(autojump_clock: trio.testing.MockClock) -> None:
    calls: list[str] = []
    moved = Timer(lambda: calls.append("moved"), never)
    closed = Timer(lambda: calls.append("closed"), never)
    now = trio.current_time()
    moved.set(now + 1)
    closed.set(now + 1)
    await trio.sleep(0.5)
    moved.set(now + 9)
    closed.close()
    await trio.sleep(8)
    assert calls == []
    await trio.sleep(1)
    assert calls == ["moved"]


async def test_the_heap_does_not_grow_with_the_moves(autojump_clock: trio.testing.MockClock) -> None:
    """A busy link's timer goes to and fro between a receipt in 5 ms and a heartbeat in 4 s."""
    timer = Timer(lambda: None, never)
    for _ in range(500):
        now = trio.current_time()
        timer.set(now + 4)
        timer.set(now + 0.005)
        await trio.sleep(0.005)
    assert len(timer._clock._heap) <= 3


moves = st.lists(
    st.tuples(st.floats(0, 2), st.none() | st.floats(0, 5)), max_size=30
)  # wait so long, then set it so far ahead, or not


@given(moves)
def test_whatever_the_moves_it_calls_when_it_is_due(plan: list[tuple[float, float | None]]) -> None:
    calls: list[float] = []
    expected: list[float] = []

    async def main() -> None:
        timer = Timer(lambda: calls.append(trio.current_time()), never)
        due = math.inf
        for wait, ahead in plan:
            until = trio.current_time() + wait
            if due <= until:
                expected.append(due)
                due = math.inf
            await trio.sleep_until(until)
            await trio.testing.wait_all_tasks_blocked()
            if ahead is not None:
                due = trio.current_time() + ahead
                timer.set(due)
        if due < math.inf:
            expected.append(due)
        await trio.sleep(10)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert calls == pytest.approx(expected)


async def test_a_defect_costs_its_own_timer_alone(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("a defect")

    now = trio.current_time()
    bad = Timer(fail, lambda: told.append("defect"))
    good = Timer(lambda: told.append("good"), never)
    bad.set(now + 1)
    good.set(now + 2)
    await trio.sleep(3)
    assert told == ["defect", "good"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
