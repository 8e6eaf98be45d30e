"""Whom to dial, and whom to be linked to."""

import pytest
import trio

from tunnel_agent.endpoint import Endpoint
from tunnel_agent.home import Home
from tunnel_wire.flow import Budget
from tunnel_wire.session import Session

HERE, THERE, NOWHERE = (Endpoint.parse(f"{name}.example:10262") for name in ("here", "there", "nowhere"))

DELAY = 30.0


class World:
    """A session that is with the server THERE, whose process is `1`."""

    def __init__(self) -> None:
        self.linked = False
        self.session = Session(budget=Budget(1 << 30))
        self.session.suspended.set_graces(90, 10, longer=30)
        self.home = Home(self.session, lambda: self.linked, failover_delay=DELAY)
        assert self.home.admits(THERE, "1")
        self.session.instance = "1"

    def suspend(self, *, pooled: bool = False) -> None:
        stream = self.session.new_stream("127.0.0.1", 80)
        stream.is_pooled = pooled
        stream.suspend(trio.current_time())


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
    await trio.sleep(DELAY - 1)
    assert not world.home.admits(NOWHERE, "3")
    await trio.sleep(2)
    assert not world.home.is_awaited
    assert world.home.admits(NOWHERE, "3")


async def test_what_waited_in_vain_is_in_the_log(world, caplog):
    assert world.home.admits(THERE, "1")
    world.suspend()
    world.suspend()
    assert world.home.admits(THERE, "1")
    assert caplog.messages == []
    assert world.home.admits(THERE, "2")
    world.home.failover_delay = 0.0
    assert world.home.admits(HERE, "3")
    waited = "2 connections that waited for there.example:10262 are reset:"
    assert caplog.messages == [
        f"{waited} what answers there now is another process",
        f"{waited} here.example:10262 is another process",
    ]


async def test_once_it_was_back_the_time_begins_anew(world, autojump_clock):
    world.suspend()
    assert not world.home.admits(HERE, "2")
    await trio.sleep(DELAY - 1)
    assert world.home.admits(THERE, "1")
    assert not world.home.is_awaited
    await trio.sleep(5)
    assert not world.home.admits(HERE, "2")


async def test_what_many_requests_share_is_waited_for_as_long_as_theirs_keeps_it(world, autojump_clock):
    world.suspend(pooled=True)
    assert not world.home.admits(HERE, "2")
    await trio.sleep(9)
    assert world.home.is_awaited
    await trio.sleep(2)
    assert world.session.suspended, "the agent holds them longer"
    assert not world.home.is_awaited
    assert world.home.admits(HERE, "2")


async def test_one_that_is_not_shared_is_enough_to_wait_for(world, autojump_clock):
    world.suspend(pooled=True)
    world.suspend()
    assert not world.home.admits(HERE, "2")
    await trio.sleep(DELAY - 1)
    assert not world.home.admits(HERE, "2")


async def test_nothing_is_waited_for_that_theirs_has_given_up(world, autojump_clock):
    world.suspend()
    await trio.sleep(91)
    assert world.session.suspended
    assert world.home.admits(HERE, "2")


async def test_how_long_changes_at_any_time(world, autojump_clock):
    world.suspend()
    assert not world.home.admits(HERE, "2")
    await trio.sleep(5)
    world.home.failover_delay = 4.0
    assert not world.home.is_awaited
    world.home.failover_delay = 60.0
    assert world.home.is_awaited
    world.home.failover_delay = 0.0
    assert world.home.admits(HERE, "2")
