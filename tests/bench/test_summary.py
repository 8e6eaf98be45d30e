"""Medians, spread and ratios."""

from bench.results import Results, Sample
from bench.summary import Spread, Summary


def summary(*samples: Sample) -> Summary:
    return Summary(Results({}, quick=False, rounds=3, peers=[], loads=[], samples=list(samples)))


def sample(peer: str, number: int, rate: float) -> Sample:
    return Sample(peer, "bulk down", number, {"rate": rate})


def test_the_median_with_the_least_and_the_most() -> None:
    answers = summary(*(sample("ours", number, rate) for number, rate in enumerate([300.0, 100.0, 500.0])))
    assert answers.spread("ours", "bulk down", "rate") == Spread(median=300.0, least=100.0, most=500.0)


def test_nothing_was_measured() -> None:
    assert summary().spread("ours", "bulk down", "rate") is None
    assert summary().ratio("ours", "direct", "bulk down", "rate") is None
    assert summary().failure("ours", "bulk down") is None


def test_a_ratio_is_of_the_same_round() -> None:
    """The machine became half as fast in the second round, for both: the ratio is the same."""
    answers = summary(
        *(sample("ours", number, rate) for number, rate in enumerate([800.0, 400.0])),
        *(sample("direct", number, rate) for number, rate in enumerate([1600.0, 800.0])),
    )
    assert answers.ratio("ours", "direct", "bulk down", "rate") == 0.5


def test_a_round_that_only_one_of_them_has_does_not_count() -> None:
    answers = summary(sample("ours", 0, 10.0), sample("ours", 1, 900.0), sample("direct", 0, 20.0))
    assert answers.ratio("ours", "direct", "bulk down", "rate") == 0.5


def test_nothing_is_no_base() -> None:
    answers = summary(sample("ours", 0, 10.0), sample("direct", 0, 0.0))
    assert answers.ratio("ours", "direct", "bulk down", "rate") is None


def test_why_a_load_failed_and_what_other_rounds_had() -> None:
    answers = summary(sample("ours", 0, 10.0), Sample("ours", "bulk down", 1, failed="cut"))
    assert answers.failure("ours", "bulk down") == "cut"
    assert answers.spread("ours", "bulk down", "rate") == Spread(10.0, 10.0, 10.0)
