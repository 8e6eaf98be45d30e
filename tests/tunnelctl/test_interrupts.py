"""SIGTERM and SIGHUP interrupt as Ctrl-C does, and not what takes back."""

import os
import signal

import pytest

from tunnelctl.interrupts import interruptible, only_by_keyboard

BOTH = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", BOTH)
def test_each_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", BOTH)
def test_taking_back_goes_on(number: signal.Signals) -> None:
    with interruptible():
        with only_by_keyboard():
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_whoever_is_there_may_have_had_enough() -> None:
    with interruptible(), only_by_keyboard(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
