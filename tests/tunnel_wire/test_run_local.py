"""One for each event loop, made when it is first asked for."""

import pytest
import trio

from tunnel_wire.run_local import RunLocal


def test_a_loop_has_one_of_its_own() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    local = RunLocal("test", make)

    async def twice() -> object:
        assert local() is local()
        return local()

    assert made == []
    first, second = trio.run(twice), trio.run(twice)
    assert [first, second] == made
    assert first is not second


async def test_one_that_cannot_be_made_is_tried_anew() -> None:
    failures = iter([OSError("no descriptor")])

    def make() -> str:
        for failure in failures:
            raise failure
        return "made"

    local = RunLocal("test", make)
    with pytest.raises(OSError, match="no descriptor"):
        local()
    assert local() == "made"


def test_outside_of_a_loop() -> None:
    with pytest.raises(RuntimeError):
        RunLocal("test", list)()
