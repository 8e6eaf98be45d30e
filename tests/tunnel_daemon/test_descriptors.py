"""What is said of file descriptors that have run out: the limit, where to change it, and not too often."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from tests.e2e.shortage import descriptors
from tunnel_daemon.descriptors import Shortage, describe

if TYPE_CHECKING:
    import pytest
    from trio.testing import MockClock


def _raised() -> OSError:
    try:
        os.close(os.open("/", os.O_RDONLY))
    except OSError as error:
        return error
    raise AssertionError("a descriptor was left")


def test_the_limit_and_where_to_change_it_are_named() -> None:
    with descriptors(os.getpid(), limit=5):
        error = _raised()
        text = (
            "Too many open files: this process may have 5 (LimitNOFILE= in its unit, elsewhere `ulimit -n`)"
        )
        assert describe(error) == text
    whole = OSError(errno.ENFILE, "Too many open files in system")
    assert describe(whole).endswith("the machine may have no more (sysctl fs.file-max)")
    assert describe(OSError(errno.ECONNABORTED, "x")) == "Software caused connection abort"
    assert describe(OSError("no number")) == "no number"


async def test_one_line_a_minute_whatever_listeners_feel_it(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    listeners = [Shortage("a caller"), Shortage("an agent")]
    error = OSError(errno.EMFILE, "Too many open files")
    for number in range(700):  # each waits for a tenth of a second
        await listeners[number % 2].wait_out(error)
    assert caplog.text.count("cannot accept") == 2
    await listeners[0].wait_out(OSError(errno.ENFILE, "Too many open files in system"))
    assert caplog.text.count("cannot accept") == 3
