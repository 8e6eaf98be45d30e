import logging

import pytest

from tunnel_daemon.failure_log import MAX_KINDS, FailureLog


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def failures(clock):
    return FailureLog(logging.getLogger("test.failures"), clock)


def test_the_first_of_a_kind_is_logged_at_once(failures, caplog):
    failures.failed("refused", "connection refused")
    failures.failed("timeout", "timed out")
    assert caplog.messages == ["connection refused", "timed out"]


def test_repetitions_are_logged_ever_more_rarely(failures, clock, caplog):
    for _second in range(24 * 3600):
        failures.failed("refused", "connection refused")
        clock.now += 1
    # At 0, 1, 3, 7, 15, 31, 63 minutes (the interval is then an hour) and each hour after that.
    assert len(caplog.messages) == 7 + 22
    assert caplog.messages[1] == "connection refused (60 times in the last 60 s)"


def test_a_rhythm_and_a_level_of_ones_own(clock, caplog):
    caplog.set_level(logging.INFO)
    failures = FailureLog(logging.getLogger("test.failures"), clock, level=logging.INFO, longest=60)
    for _second in range(600):
        failures.failed("refused", "connection refused")
        clock.now += 1
    assert len(caplog.messages) == 10
    assert {record.levelno for record in caplog.records} == {logging.INFO}
    assert caplog.messages[-1] == "connection refused (60 times in the last 60 s)"


def test_success_makes_the_next_failure_news(failures, caplog):
    failures.failed("refused", "connection refused")
    failures.over()
    failures.failed("refused", "connection refused")
    assert len(caplog.messages) == 2


def test_alternating_kinds_do_not_flood(failures, clock, caplog):
    for _second in range(600):
        failures.failed("refused", "connection refused")
        failures.failed("timeout", "timed out")
        clock.now += 1
    assert len(caplog.messages) <= 10


def test_the_number_of_kinds_is_bounded(failures):
    for number in range(10 * MAX_KINDS):
        failures.failed(str(number), "failed")
    assert len(failures._kinds) <= MAX_KINDS
