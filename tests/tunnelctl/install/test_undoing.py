"""Taking back what was done, newest first, as far as that is possible."""

from collections.abc import Callable

import pytest

from tunnel_server.kube.failures import ApiFailure
from tunnelctl.errors import CommandError
from tunnelctl.install.undoing import Undoing


class Told:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.undone: list[str] = []
        self.undoing = Undoing(self.lines.append)

    def deed(self, name: str, error: BaseException | None = None) -> None:
        def undo() -> str:
            self.undone.append(name)
            if error is not None:
                raise error
            return f"took back {name}"

        self.undoing.remember(name, undo)


@pytest.fixture
def told() -> Told:
    return Told()


def test_newest_first_and_once(told: Told) -> None:
    told.deed("a")
    told.deed("b")
    assert told.undoing.undo() == []
    assert told.lines == ["  took back b", "  took back a"]
    assert told.undoing.undo() == []
    assert told.undone == ["b", "a"]


def test_one_that_is_refused_does_not_stop_the_others(told: Told) -> None:
    told.deed("a")
    told.deed("b", ApiFailure("no right", status=403))
    told.deed("c")
    assert told.undoing.undo() == ["b: no right"]
    assert told.undone == ["c", "b", "a"]
    assert told.lines[1] == "  could not take back: b: no right"


@pytest.mark.parametrize("error", [lambda: ApiFailure("no answer"), KeyboardInterrupt])
def test_where_nobody_answers_or_waits_the_rest_is_left(
    told: Told, error: Callable[[], BaseException]
) -> None:
    told.deed("a")
    told.deed("b", error())
    told.deed("c")
    assert told.undoing.undo() == ["b", "a"]
    assert told.undone == ["c", "b"]


def test_nothing_to_take_back_says_nothing(told: Told) -> None:
    told.undoing.remember("a", lambda: "")
    assert told.undoing.undo() == []
    assert told.lines == []


def test_what_is_left_of_one_does_not_stop_the_others(told: Told) -> None:
    told.deed("a")
    told.deed("b", CommandError("keys on edge-1"))
    assert told.undoing.undo() == ["b: keys on edge-1"]
    assert told.undone == ["b", "a"]
