"""The ledgers of one direction: nothing is lost, kept too long, promised twice, or given back twice."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire.flow import SEGMENT, Budget, CreditExceeded, Incoming, Outgoing, SegmentPool
from tunnel_wire.limits import WireLimits

KIB = 1024
LIMITS = WireLimits(
    initial_window=64 * KIB,
    max_window=1000 * KIB,
    kept_floor=64 * KIB,
    max_kept=500 * KIB,
    max_queued=300 * KIB,
)


def outgoing(budget: int = 1 << 30, pool: SegmentPool | None = None) -> tuple[Outgoing, Budget]:
    shared = Budget(budget)
    return Outgoing(shared, pool or SegmentPool(), LIMITS), shared


def test_budget_gives_no_more_than_it_has() -> None:
    budget = Budget(100)
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert budget.used == 60
    assert budget.reserve(40)
    budget.release(100)
    assert budget.used == 0
    with pytest.raises(AssertionError):
        budget.release(1)


# --- out ------------------------------------------------------------------------------------------


def test_going_on_where_the_peer_is() -> None:
    out, _ = outgoing()
    out.limit = 1000
    for piece in (b"abc", b"defg", b"hi"):
        out.write(piece)
    assert b"".join(out.take(8)) == b"abcdefgh"
    out.acknowledge(3)
    for wrong in (2, 9):
        assert not out.resume(wrong, 1000)
        assert (out.sent, out.acknowledged, out.limit) == (8, 3, 1000)
    assert out.resume(5, 7)
    assert (out.sent, out.acknowledged, out.sendable()) == (5, 5, 2)
    assert b"".join(out.take(100)) == b"fg"
    out.limit = 100
    assert b"".join(out.take(100)) == b"hi"
    out.end, out.end_sent, out.end_acknowledged = 9, True, True
    assert out.resume(9, 100)
    assert (out.end_sent, out.end_acknowledged, out.queued) == (False, False, 0)


def test_nothing_is_taken_that_was_not_granted() -> None:
    out, _ = outgoing()
    assert out.room() == 0
    out.limit = 100
    assert out.room() == 100
    out.write(bytes(60))
    assert out.room() == 40
    # SETTINGS may take back what was granted (RFC 9113, 6.9.2).
    out.limit = 30
    assert out.room() == 0
    assert out.sendable() == 30


def test_frames_are_cut_anywhere_and_kept_until_receipt() -> None:
    out, _ = outgoing()
    out.limit = 1000
    out.write(b"hello ")
    out.write(b"world")
    assert b"".join(out.take(8)) == b"hello wo"
    assert b"".join(out.take(100)) == b"rld"
    assert (out.sent, out.queued, out.acknowledged) == (11, 0, 0)
    out.acknowledge(7)
    assert out.acknowledged == 7
    assert sum(len(data) for _, data, _ in out._kept) >= 4
    out.acknowledge(11)
    assert not out._kept
    out.acknowledge(5)
    assert out.acknowledged == 11


@given(
    pieces=st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.booleans()), max_size=20),
    cuts=st.lists(st.integers(1, 70), min_size=1),
    receipts=st.lists(st.integers(0, 100), min_size=1),
)
def test_segments_come_back_exactly_once(
    pieces: list[tuple[bytes, bool]], cuts: list[int], receipts: list[int]
) -> None:
    given_back: list[int] = []
    pool, bottom = SegmentPool(), bytearray()
    pool.give(bottom)

    def note_given_back() -> None:
        taken = []
        while (segment := pool.take()) is not bottom:
            taken.append(id(segment))
        given_back.extend(reversed(taken))
        pool.give(bottom)

    out, _ = outgoing(pool=pool)
    out.limit = 1 << 20
    segments = []
    for data, pooled in pieces:
        segment = bytearray(data) if pooled else None
        segments += [segment] if segment is not None else []
        out.write(memoryview(segment) if segment is not None else data, segment)
    framed = b""
    turn = 0
    while out.queued:
        framed += b"".join(out.take(cuts[turn % len(cuts)]))
        # A segment is never given back while bytes of it are kept.
        out.acknowledge(min(out.sent, out.acknowledged + receipts[turn % len(receipts)]))
        note_given_back()
        kept = {id(segment) for _, _, segment in out._kept if segment is not None}
        assert not kept & set(given_back)
        turn += 1
    assert framed == b"".join(data for data, _ in pieces)
    out.acknowledge(out.written)
    note_given_back()
    assert given_back == [id(segment) for segment in segments]


def test_what_is_kept_grows_with_need_and_is_released() -> None:
    out, budget = outgoing()
    out.limit = 1 << 30
    sizes = []
    while room := out.room():
        out.write(bytes(room))
        out.take(room)
        sizes.append(out.allowance)
    # Doubled, but never beyond what is configured.
    assert sizes[-1] == out.written == LIMITS.max_kept
    assert budget.used == LIMITS.max_kept - LIMITS.kept_floor
    out.acknowledge(out.sent - 1)
    assert budget.used == LIMITS.max_kept - LIMITS.kept_floor
    assert out.room() == LIMITS.max_queued
    out.acknowledge(out.sent)
    assert (budget.used, out.allowance) == (0, LIMITS.kept_floor)


def test_without_memory_the_floor_remains() -> None:
    out, budget = outgoing(budget=100)
    out.limit = 1 << 30
    assert out.room() == LIMITS.kept_floor
    out.write(bytes(out.room()))
    out.take(1 << 20)
    assert out.room() == 0
    out.acknowledge(10)
    assert out.room() == 10
    assert budget.used == 0


def test_queued_bytes_are_bounded() -> None:
    out, _ = outgoing()
    out.limit = 1 << 30
    out.write(bytes(out.room()))
    assert out.queued == LIMITS.max_queued
    assert out.room() == 0


def test_discarding_gives_memory_back_at_once() -> None:
    out, budget = outgoing()
    out.limit = 1 << 30
    out.write(bytes(out.room()))
    out.take(1000)
    assert budget.used
    out.discard()
    assert budget.used == 0
    assert out.queued == out.sendable() == 0
    assert out.take(100) == []


def test_a_peek_at_a_segment_leaves_it_in_the_pool() -> None:
    pool = SegmentPool()
    first = pool.peek()
    assert pool.peek() is first
    assert pool.take() is first
    assert pool.peek() is not first


def test_the_pool_keeps_few_spares() -> None:
    pool = SegmentPool(spares=1)
    one, other = pool.take(), pool.take()
    assert len(one) == SEGMENT
    pool.give(one)
    pool.give(other)
    assert pool.take() is one
    assert pool.take() is not other


def test_of_a_segment_only_what_is_read_into_takes_memory() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    pool, before = SegmentPool(), resident()
    taken = [pool.take() for _ in range(64)]
    for segment in taken:
        segment[:5] = b"hello"
    assert resident() < before + len(taken) * SEGMENT // 4


# --- in -------------------------------------------------------------------------------------------


def incoming(budget: int = 1 << 30) -> tuple[Incoming, Budget]:
    shared = Budget(budget)
    return Incoming(shared, LIMITS), shared


def arrive(into: Incoming, size: int) -> None:
    into.admit(size)
    into.received += size


def test_no_more_is_admitted_than_was_granted() -> None:
    into, _ = incoming()
    arrive(into, 64 * KIB)
    with pytest.raises(CreditExceeded):
        into.admit(1)


def test_credit_goes_back_in_eighths() -> None:
    into, _ = incoming()
    arrive(into, 64 * KIB)
    assert into.consume(8 * KIB - 1, 0, None) == 0
    assert into.consume(1, 0, None) == 8 * KIB
    assert into.consume(100, 0, None) == 0
    assert into.granted == 72 * KIB


def drain(into: Incoming, rounds: int, every: float, round_trip: float | None) -> int:
    """A sender that fills the window, and a consumer that empties it every so many seconds."""
    credited = 0
    for turn in range(rounds):
        arrive(into, into.granted - into.received)
        credited += into.consume(into.queued, turn * every, round_trip)
    return credited


def test_the_window_grows_when_it_is_the_limit() -> None:
    into, budget = incoming()
    credited = drain(into, 20, 0.1, 0.1)
    assert into.window == LIMITS.max_window
    assert budget.used == LIMITS.max_window - 64 * KIB
    assert credited == into.granted - 64 * KIB


def test_the_window_grows_also_where_turns_among_others_are_what_takes_time() -> None:
    into, _ = incoming()
    drain(into, 20, 0.03, 0.0001)
    assert into.window == LIMITS.max_window


def test_the_window_stays_when_the_consumer_is_the_limit() -> None:
    into, _ = incoming()
    drain(into, 20, 5.0, 0.1)
    assert into.window == 64 * KIB


def test_the_window_stays_while_no_round_trip_is_known() -> None:
    into, _ = incoming()
    drain(into, 20, 0.001, None)
    assert into.window == 64 * KIB


def test_the_window_stays_when_memory_is_short() -> None:
    into, budget = incoming(budget=200 * KIB)  # half of it is kept for new streams
    drain(into, 20, 0.1, 0.1)
    assert into.window == 128 * KIB
    assert budget.used == 64 * KIB


def test_no_credit_after_the_end() -> None:
    into, _ = incoming()
    arrive(into, 64 * KIB)
    into.end = into.received
    assert into.consume(64 * KIB, 0, 0.1) == 0


def test_discarding_what_nobody_will_read() -> None:
    into, _ = incoming()
    arrive(into, 5)
    into.queue.append(b"12345")
    into.discard()
    assert into.queued == 0
    assert not into.queue


def test_a_new_link_begins_with_what_is_owed() -> None:
    incoming = Incoming(Budget(1 << 30), LIMITS)
    incoming.received = 1000
    incoming.consume(1000, 0.0, None)
    assert incoming.granted == 64 * KIB
    incoming.refill()
    assert incoming.granted == 64 * KIB + 1000
    incoming.refill()
    assert incoming.granted == 64 * KIB + 1000
    incoming.end = 1000
    incoming.consumed = 1000
    incoming.refill()
    assert incoming.granted == 64 * KIB + 1000
