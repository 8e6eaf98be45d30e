from itertools import islice

from tunnel_daemon.backoff import full_jitter


def test_the_ceiling_doubles_up_to_the_maximum():
    ceilings = list(islice(full_jitter(1, 60, uniform=lambda _low, high: high), 9))
    assert ceilings == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_jitter_is_full():
    assert list(islice(full_jitter(1, 60, uniform=lambda low, _high: low), 3)) == [0, 0, 0]
    delays = [next(full_jitter(10, 60)) for _ in range(1000)]
    assert 0 <= min(delays) < 1
    assert 9 < max(delays) <= 10


def test_a_maximum_that_is_no_power_of_two_is_kept():
    assert max(islice(full_jitter(1, 5, uniform=lambda _low, high: high), 20)) == 5
