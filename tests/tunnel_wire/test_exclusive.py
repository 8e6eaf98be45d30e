"""One task at a time, and free again however the first one left."""

import pytest
import trio

from tunnel_wire.exclusive import Exclusive


def test_the_second_is_told_why() -> None:
    one = Exclusive("somebody is at it")
    with one, pytest.raises(trio.BusyResourceError, match="somebody is at it"), one:
        pass


def test_a_refused_second_does_not_free_the_first() -> None:
    one = Exclusive("busy")
    with one:
        with pytest.raises(trio.BusyResourceError), one:
            pass
        with pytest.raises(trio.BusyResourceError), one:
            pass


async def test_free_after_an_error_and_after_cancellation() -> None:
    one = Exclusive("busy")
    with pytest.raises(ValueError, match="x"), one:
        raise ValueError("x")
    with trio.CancelScope() as scope, one:
        scope.cancel()
        await trio.lowlevel.checkpoint()
    with one:
        pass
