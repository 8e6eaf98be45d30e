"""A token bucket allows its burst, then its rate."""

from tunnel_wire.rates import Allowance


def test_burst_then_rate() -> None:
    allowance = Allowance(rate=2, burst=3, now=100)
    assert [allowance.spend(100) for _ in range(4)] == [True, True, True, False]
    assert not allowance.spend(100.4)
    assert allowance.spend(100.5)
    assert not allowance.spend(100.5)


def test_what_is_left() -> None:
    allowance = Allowance(rate=2, burst=3, now=100)
    allowance.spend(100, cost=2)
    assert [allowance.left(now) for now in (100, 100.5, 200)] == [1, 2, 3]


def test_it_never_holds_more_than_the_burst() -> None:
    allowance = Allowance(rate=1000, burst=2, now=0)
    assert [allowance.spend(1e6) for _ in range(3)] == [True, True, False]
