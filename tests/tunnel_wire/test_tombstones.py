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
    fewest, most = 5000, 0
    for key in range(10_000):
        stones.add(key, None, finished=True)
        if key % 250 == 0 or key % 2048 in {2047, 0, 1}:
            known = [each for each in range(key + 1) if stones.get(each) is not None]
            assert known == list(range(key + 1 - len(known), key + 1))
            if key >= 5000:
                fewest, most = min(fewest, len(known)), max(most, len(known))
    assert 2048 < fewest < most == 4096


def test_the_latest_answer_for_a_key_counts() -> None:
    """However long ago the other one was given."""
    stones = Tombstones()
    stones.add(7, None, finished=True)
    for key in range(100, 100 + 2048):
        stones.add(key, None, finished=True)
    stones.add(7, None, finished=False)
    answer = stones.get(7)
    assert answer is not None
    assert answer.cause is Cause.RESET


def test_others_do_not_drive_out_who_has_moved() -> None:
    stones = Tombstones()
    stones.add(1, None, finished=True, moved=True)
    for key in range(10, 10_000):
        stones.add(key, None, finished=True)
    answer = stones.get(1)
    assert answer is not None
    assert answer.cause is Cause.ENDED
    assert stones.get(2) is None
