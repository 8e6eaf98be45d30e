"""A probe's answer for every way a dial can go; the agent is the test."""

from types import SimpleNamespace
from typing import Any

import trio

from tunnel_server.admin.probe import probe
from tunnel_server.registry import Registry
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.limits import WireLimits


class Agent:
    """Answers a dial after `seconds`, with an OpenFailed if it has one."""

    def __init__(self, failure: OpenFailed | None = None, seconds: float = 0.25) -> None:
        self.failure = failure
        self.seconds = seconds
        self.resets = 0
        self.asked: list[tuple[str, int]] = []

    async def open(self, host: str, port: int) -> Any:
        self.asked.append((host, port))
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        return SimpleNamespace(reset=self._reset)

    def _reset(self) -> None:
        self.resets += 1


def registry(agent: Agent | None) -> Registry:
    made = Registry(
        edge_networks=(), budget=Budget(2**22), pool=SegmentPool(), limits=WireLimits(),
        links_per_node=1, on_addresses=lambda: None,
    )  # fmt: skip
    made.node("edge-1").agent = agent  # type: ignore[assignment]
    return made


async def test_a_target_that_answers(autojump_clock) -> None:
    agent = Agent()
    view = await probe(registry(agent), "edge-1", "127.0.0.1", 80, 15)
    assert (view.ok, view.cause, view.ms) == (True, None, 250)
    assert agent.asked == [("127.0.0.1", 80)]
    assert agent.resets == 1, "the probe's connection is left open"


async def test_the_agents_cause_is_told(autojump_clock) -> None:
    view = await probe(registry(Agent(OpenFailed(Cause.REFUSED, "nothing listens"))), "edge-1", "::1", 80, 15)
    assert (view.ok, view.cause, view.detail) == (False, "refused", "nothing listens")


async def test_an_agent_that_never_answers(autojump_clock) -> None:
    view = await probe(registry(Agent(seconds=1000)), "edge-1", "127.0.0.1", 80, 15)
    assert (view.ok, view.cause, view.ms) == (False, "timed-out", 15000)


async def test_away_and_unknown() -> None:
    assert (await probe(registry(None), "edge-1", "127.0.0.1", 80, 15)).cause == "away"
    assert (await probe(registry(None), "edge-2", "127.0.0.1", 80, 15)).cause == "no-such-node"
