"""Each wait is called when it is overdue, in whatever order they began, unless it has ended."""

import pytest
import trio
import trio.testing

from tunnel_wire.deadlines import Deadlines, Wait


class Noted:
    def __init__(self, calls: list[tuple[str, float]], name: str) -> None:
        self.calls = calls
        self.name = name

    def overdue(self) -> None:
        self.calls.append((self.name, trio.current_time()))


async def test_each_at_its_time(autojump_clock: trio.testing.MockClock) -> None:
    deadlines, calls, now = Deadlines(), list[tuple[str, float]](), trio.current_time()
    for name, seconds in (("late", 9), ("soon", 3), ("never", 4), ("then", 5)):
        wait = Noted(calls, name)
        deadlines.add(wait, now + seconds)
        if name == "never":
            deadlines.discard(wait)
    await trio.sleep(20)
    assert calls == [("soon", now + 3), ("then", now + 5), ("late", now + 9)]
    deadlines.add(Noted(calls, "again"), now + 25)
    await trio.sleep(10)
    assert calls[3:] == [("again", now + 25)]


async def test_one_that_ends_another(autojump_clock: trio.testing.MockClock) -> None:
    class Ends:
        def overdue(self) -> None:
            deadlines.discard(other)

    deadlines, calls, now = Deadlines(), list[tuple[str, float]](), trio.current_time()
    other: Wait = Noted(calls, "other")
    deadlines.add(Ends(), now + 1)
    deadlines.add(other, now + 1)
    await trio.sleep(5)
    assert not calls


async def test_a_defect_costs_nobody_else_its_deadline(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Defect:
        def overdue(self) -> None:
            raise RuntimeError("a defect")

    deadlines, calls, now = Deadlines(), list[tuple[str, float]](), trio.current_time()
    deadlines.add(Defect(), now + 1)
    deadlines.add(Noted(calls, "other"), now + 2)
    await trio.sleep(5)
    assert calls == [("other", now + 2)]
    assert "a timer failed" in caplog.text
