"""An owner ends with its last connection, or cuts them all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from tunnel_wire.owner import Owner


class Connection:
    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.cuts = 0
        owner.add(self)

    def cut(self) -> None:
        self.cuts += 1
        self.owner.discard(self)


@asynccontextmanager
async def owning() -> AsyncIterator[tuple[Owner, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        owner = Owner(nursery)
        nursery.start_soon(owner.run)
        yield owner, nursery


async def test_closed_it_waits_for_the_last() -> None:
    async with owning() as (owner, nursery):
        one, other = Connection(owner), Connection(owner)
        owner.discard(one)
        owner.close()
        await trio.testing.wait_all_tasks_blocked()
        assert nursery.child_tasks
        owner.discard(other)
        with trio.fail_after(10):
            while nursery.child_tasks:
                await trio.sleep(0)
    assert one.cuts == other.cuts == 0


async def test_closed_without_any_it_is_over() -> None:
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            owner = Owner(nursery)
            owner.close()
            nursery.start_soon(owner.run)


async def test_cancelled_it_cuts_what_it_has_and_what_still_comes() -> None:
    async with owning() as (owner, nursery):
        first, gone = Connection(owner), Connection(owner)
        owner.discard(gone)
        await trio.testing.wait_all_tasks_blocked()
        assert first.cuts == 0
        nursery.cancel_scope.cancel()
    assert (first.cuts, gone.cuts) == (1, 0)
    assert Connection(owner).cuts == 1


async def test_closed_it_does_not_cut_who_takes_the_place_of_the_last() -> None:
    async with owning() as (owner, _):
        last = Connection(owner)
        owner.close()
        await trio.testing.wait_all_tasks_blocked()
        owner.discard(last)
        place = Connection(owner)
        await trio.testing.wait_all_tasks_blocked()
        assert place.cuts == 0
        owner.discard(place)
