"""Places for dials: in turn, and no target takes them all."""

import trio
import trio.testing

from tunnel_agent.dial_places import DialPlaces


async def test_a_dead_target_leaves_places_for_the_others() -> None:
    places = DialPlaces(8)
    inside: list[str] = []

    async def dial(host: str) -> None:
        async with places.take(host, 80):
            inside.append(host)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(dial, "dead")
        await trio.testing.wait_all_tasks_blocked()
        assert inside == ["dead", "dead"]
        nursery.start_soon(dial, "alive")
        await trio.testing.wait_all_tasks_blocked()
        assert inside == ["dead", "dead", "alive"]
        nursery.cancel_scope.cancel()
    assert not places._targets


async def test_a_burst_is_served_in_turn() -> None:
    places = DialPlaces(4)
    most = now = served = 0

    async def dial(number: int) -> None:
        nonlocal most, now, served
        async with places.take(f"host-{number % 10}", 80):
            now += 1
            most = max(most, now)
            await trio.lowlevel.checkpoint()
            now -= 1
            served += 1

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(dial, number)
    assert (served, most) == (1000, 4)


async def test_giving_up_gives_back() -> None:
    places = DialPlaces(1)

    async def another() -> None:
        async with places.take("here", 1):
            raise AssertionError("there is only one place")

    async with places.take("here", 1), trio.open_nursery() as nursery:
        nursery.start_soon(another)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with places.take("here", 1):
        pass
    assert not places._targets


async def test_more_places_let_in_who_waits_and_fewer_end_nobody() -> None:
    places = DialPlaces(4)
    inside: list[int] = []

    async def dial(number: int) -> None:
        async with places.take("here", 80):
            inside.append(number)
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(dial, number)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inside) == 1
        places.change(12)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inside) == 3
        places.change(1)
        nursery.start_soon(dial, 9)
        await trio.testing.wait_all_tasks_blocked()
        assert len(inside) == 3
        nursery.cancel_scope.cancel()
    assert not places._targets
