"""How streams ended is known for a while, and for a bounded number of them."""

from __future__ import annotations

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.tombstones import Tombstones


def test_each_end_has_its_answer() -> None:
    stones = Tombstones()
    stones.add(1, None, finished=True)
    stones.add(2, None, finished=False)
    stones.add(3, OpenFailed(Cause.REFUSED, "nobody listens"), finished=False)
    answers = [stones.get(key) for key in range(5)]
    assert [None if answer is None else answer.cause for answer in answers] == [
        None,
        Cause.ENDED,
        Cause.RESET,
        Cause.REFUSED,
        None,
    ]
    assert "nobody listens" in str(answers[3])


def test_the_oldest_are_forgotten() -> None:
    stones = Tombstones()
    for key in range(5000):
        stones.add(key, None, finished=True)
    known = [key for key in range(5000) if stones.get(key) is not None]
    assert known == list(range(5000 - 4096, 5000))
