"""What is forgotten once it is framed, and what is asked for all the same."""

from bench.forgetful import _ask_where_it_is_awaited, _take_and_forget
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


def test_the_receipt_of_data_is_asked_for_only_where_a_writer_waits_for_it() -> None:
    queued: list[bytes] = []
    life = Life(DEFAULT_LIMITS, 0.0, queued.append)
    stream = Session(budget=Budget(1 << 30)).new_stream("target", 80)
    stream.outgoing.limit = 1 << 30
    stream.outgoing.write(bytes(1000))
    _take_and_forget(stream.outgoing, 1000)
    life.note_sent(stream, 1)
    assert not _ask_where_it_is_awaited(life, 1.0)
    while stream.outgoing.room() > 0:
        stream.outgoing.write(bytes(1 << 20))
    _take_and_forget(stream.outgoing, 1000)
    life.note_sent(stream, 1)
    assert _ask_where_it_is_awaited(life, 1.0)
    assert len(queued) == 1
    # Once is enough: by the receipt the peer's room is known.
    life.answered((1).to_bytes(8), 1.1)
    life.note_sent(stream, 1)
    assert not _ask_where_it_is_awaited(life, 2.0)


def test_what_another_link_asks_for_is_no_answer_here() -> None:
    mine, other = (Life(DEFAULT_LIMITS, 0.0, lambda frame: None) for _ in range(2))
    for life in (mine, other):
        stream = Session(budget=Budget(1 << 30)).new_stream("target", 80)
        stream.outgoing.limit = 1 << 30
        while stream.outgoing.room() > 0:
            stream.outgoing.write(bytes(1 << 20))
        _take_and_forget(stream.outgoing, 1000)
        life.note_sent(stream, 1)
    assert _ask_where_it_is_awaited(other, 1.0)
    assert _ask_where_it_is_awaited(mine, 1.0)


def test_the_receipt_of_an_end_is_asked_for() -> None:
    queued: list[bytes] = []
    life = Life(DEFAULT_LIMITS, 0.0, queued.append)
    stream = Session(budget=Budget(1 << 30)).new_stream("target", 80)
    stream.outgoing.end_sent = True
    life.note_sent(stream, 1)
    assert _ask_where_it_is_awaited(life, 1.0)
    assert len(queued) == 1
