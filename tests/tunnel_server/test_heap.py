"""Full collections look at what is new, and now and then at everything."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from tunnel_server.heap import SetAside

if TYPE_CHECKING:
    from collections.abc import Iterator


class Cycle:
    """Nothing but the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def aside() -> Iterator[SetAside]:
    callback = SetAside()
    gc.callbacks.append(callback)
    try:
        yield callback
    finally:
        gc.callbacks.remove(callback)
        gc.unfreeze()


@pytest.mark.usefixtures("aside")
def test_what_has_survived_is_not_looked_at_until_all_is() -> None:
    old = Cycle()
    at_first = gc.get_freeze_count()  # 0, and some hundred objects in Python 3.12
    gc.collect(1)
    assert gc.get_freeze_count() == at_first
    gc.collect()
    assert gc.get_freeze_count() > 10_000
    new = Cycle()
    seen = weakref.ref(old), weakref.ref(new)
    del old, new
    gc.collect()
    assert [each() is None for each in seen] == [False, True]
    for _ in range(63):
        gc.collect()
    assert seen[0]() is None


def test_all_is_looked_at_when_many_links_have_ended(aside: SetAside) -> None:
    old = Cycle()
    gc.collect()
    seen = weakref.ref(old)
    del old
    for _ in range(999):
        aside.note_link_ended(4000)
    gc.collect()
    assert seen() is not None
    aside.note_link_ended(4000)
    gc.collect()
    assert seen() is None
