"""What is forgotten once it is framed, and what is asked for all the same."""

from bench.forgetful import _ask_for_ends, _take_and_forget
from tunnel_wire.flow import Budget, Outgoing, SegmentPool
from tunnel_wire.life import Life
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.session import Session


def test_a_segment_is_free_when_it_is_framed() -> None:
    pool = SegmentPool()
    outgoing = Outgoing(Budget(1 << 30), pool, DEFAULT_LIMITS)
    outgoing.limit = 1 << 20
    segment = pool.take()
    outgoing.write(memoryview(segment)[:1000], segment)
    assert sum(map(len, _take_and_forget(outgoing, 600))) == 600
    assert pool.take() is not segment
    assert sum(map(len, _take_and_forget(outgoing, 600))) == 400
    assert outgoing.acknowledged == 1000
    assert pool.take() is segment


def test_the_receipt_of_an_end_is_asked_for_and_no_other() -> None:
    queued: list[bytes] = []
    life = Life(DEFAULT_LIMITS, 0.0, queued.append)
    stream = Session(budget=Budget(1 << 30)).new_stream("target", 80)
    life.note_sent(stream, 1)
    assert not _ask_for_ends(life, 1.0)
    stream.outgoing.end_sent = True
    life.note_sent(stream, 1)
    assert _ask_for_ends(life, 1.0)
    assert len(queued) == 1
