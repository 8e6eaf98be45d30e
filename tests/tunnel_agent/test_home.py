"""Whom to dial, and whom to be linked to."""

import pytest
import trio

from tunnel_agent.endpoint import Endpoint
from tunnel_agent.home import LOYALTY, Home
from tunnel_wire.flow import Budget
from tunnel_wire.session import Session

HERE, THERE, NOWHERE = (Endpoint.parse(f"{name}.example:10262") for name in ("here", "there", "nowhere"))


class World:
    """A session that is with the server THERE, whose process is `1`."""

    def __init__(self) -> None:
        self.linked = False
        self.session = Session(budget=Budget(1 << 30))
        self.session.suspended.grace = 90
        self.home = Home(self.session, lambda: self.linked)
        assert self.home.admits(THERE, "1")
        self.session.instance = "1"

    def suspend(self) -> None:
        self.session.new_stream("127.0.0.1", 80).suspend(trio.current_time())


@pytest.fixture
async def world():
    return World()


async def test_order(world):
    servers = (HERE, THERE, NOWHERE)
    assert world.home.order(servers) == [HERE, THERE, NOWHERE]
    world.suspend()
    assert world.home.order(servers) == [THERE, HERE, NOWHERE]
    world.linked = True
    assert world.home.order(servers) == [THERE]
    # The operator wants another one.
    assert world.home.order((HERE, NOWHERE)) == [HERE, NOWHERE]
    assert world.home.admits(HERE, "2")


async def test_beside_a_link_no_other_server(world):
    assert not world.home.excludes(HERE)
    world.linked = True
    assert world.home.excludes(HERE)
    assert not world.home.excludes(THERE)
    assert not world.home.admits(HERE, "2")
    assert world.home.admits(HERE, "1"), "the same process by another name"
    assert world.home.server == HERE
    assert world.home.admits(HERE, "2"), "a new process in the old one's place"


async def test_who_has_nothing_to_lose_takes_who_comes(world):
    assert world.home.admits(HERE, "2")
    assert world.home.server == HERE


async def test_theirs_is_waited_for_from_when_another_has_answered(world, autojump_clock):
    world.suspend()
    await trio.sleep(60)
    assert not world.home.is_awaited
    assert not world.home.admits(HERE, "2")
    assert world.home.is_awaited
    await trio.sleep(LOYALTY - 1)
    assert not world.home.admits(NOWHERE, "3")
    await trio.sleep(2)
    assert not world.home.is_awaited
    assert world.home.admits(NOWHERE, "3")


async def test_once_it_was_back_the_time_begins_anew(world, autojump_clock):
    world.suspend()
    assert not world.home.admits(HERE, "2")
    await trio.sleep(LOYALTY - 1)
    assert world.home.admits(THERE, "1")
    assert not world.home.is_awaited
    await trio.sleep(5)
    assert not world.home.admits(HERE, "2")
