"""Streams without a link wait for their grace, are given up for memory, and are watched by a timer."""

from __future__ import annotations

import math

import trio
import trio.testing

from tests.tunnel_wire.memory import Face
from tunnel_wire.expiry import Expiry
from tunnel_wire.flow import Budget
from tunnel_wire.limits import WireLimits
from tunnel_wire.session import Session, Stream
from tunnel_wire.stream_state import EndCause, State

LIMITS = WireLimits(resume_grace_pooled=10)
FLOOR = LIMITS.initial_window + LIMITS.kept_floor


def session(grace: float = 90, budget: int = 1 << 30) -> Session:
    made = Session(budget=Budget(budget), limits=LIMITS)
    made.suspended.grace = grace
    return made


def suspended(session: Session, now: float, *, pooled: bool = False) -> Stream:
    stream = session.new_stream("target", 80)
    stream.state, stream.resumable, stream.is_pooled = State.OPEN, True, pooled
    stream.face = Face(stream)
    stream.suspend(now)
    return stream


def test_when_they_are_due() -> None:
    one = session()
    assert one.suspended.next_due() == math.inf
    first, pooled = suspended(one, 100), suspended(one, 110, pooled=True)
    assert (len(one.suspended), list(one.suspended)) == (2, [first, pooled])
    assert one.suspended.next_due() == 120
    one.expire(119)
    assert len(one.suspended) == 2
    one.expire(120)
    assert list(one.suspended) == [first]
    assert (pooled.end_cause, pooled.face.told) == (EndCause.EXPIRED, ["reset"])  # type: ignore[union-attr]
    assert one.suspended.next_due() == 190


def test_a_short_grace_stays_short() -> None:
    one = session(grace=5)
    suspended(one, 100, pooled=True)
    assert one.suspended.next_due() == 105


def test_who_does_not_decide_holds_them_longer() -> None:
    one = session()
    one.suspended.set_graces(90, 10, longer=30)
    assert one.suspended.kept_until() == -math.inf
    suspended(one, 100, pooled=True)
    assert (one.suspended.kept_until(), one.suspended.next_due()) == (110, 140)
    suspended(one, 100)
    assert (one.suspended.kept_until(), one.suspended.next_due()) == (190, 140)


def test_the_longest_suspended_goes_first_whosesoever_it_is() -> None:
    one, other = session(budget=4 * FLOOR), session()
    other.budget = one.budget
    other.suspended._budget = one.budget
    streams = [suspended(one, 1), suspended(other, 2), suspended(one, 3), suspended(other, 4)]
    one.suspended.discard(streams[0])
    one.new_stream("target", 80)
    assert [stream.end_cause for stream in streams] == [None, EndCause.RECLAIMED, None, None]
    one.new_stream("target", 80)
    assert [stream.end_cause for stream in streams] == [
        None,
        EndCause.RECLAIMED,
        EndCause.RECLAIMED,
        None,
    ]
    assert list(one.budget.reclaimable) == [streams[3]]
    assert one.budget.used == one.budget.total


def test_nobody_is_given_up_for_what_can_never_be_had() -> None:
    one = session(budget=3 * FLOOR)
    stream = suspended(one, 1)
    assert not one.budget.reserve_at_cost(3 * FLOOR + 1)
    assert stream.end_cause is None


async def test_a_timer_watches_them(autojump_clock: trio.testing.MockClock) -> None:
    one = session()
    began = trio.current_time()
    first = suspended(one, began)
    Expiry(one)
    await trio.sleep(50)
    second, gone = suspended(one, began + 50), suspended(one, began + 50)
    await trio.sleep(39.9)
    assert first.end_cause is None
    await trio.sleep(0.2)
    assert first.end_cause is EndCause.EXPIRED
    one.suspended.discard(gone)
    await trio.sleep(49)
    assert second.end_cause is None
    await trio.sleep(1)
    assert (second.end_cause, gone.end_cause) == (EndCause.EXPIRED, None)
