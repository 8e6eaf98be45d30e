"""Events are told beside what happens: once, in bounds, and never in its way."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import trio

from tunnel_server.kube import events
from tunnel_server.kube.events import About, Events
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import CONFIG_MAPS, NODES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest

    from tunnel_server.kube.client import Cluster

NODE = About(NODES, "edge-1", uid="u")


def node(number: int) -> About:
    return About(NODES, f"edge-{number}", uid=str(number))


class Told:
    """What a cluster was told, in place of one: what it answers is for the tests with a real apiserver."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.changed: list[dict[str, Any]] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: list[ApiFailure] = []

    async def call(self, work: Callable[[], object]) -> object:
        await trio.sleep(0.01)
        if self.failures:
            raise self.failures.pop(0)
        return work()

    def create(self, _resource: object, body: dict[str, Any], namespace: str) -> None:
        assert body["metadata"]["namespace"] == namespace
        self.made.append(body)

    def merge(self, _resource: object, _name: str, change: dict[str, Any], _namespace: str) -> None:
        self.changed.append(change)

    def count(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


@asynccontextmanager
async def telling() -> AsyncIterator[tuple[Events, Told]]:
    told = Told()
    made = Events(cast("Cluster", told), told.count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made, told
        nursery.cancel_scope.cancel()


async def test_the_same_is_told_once_and_counted(autojump_clock) -> None:
    async with telling() as (made, told):
        for _ in range(5):
            made.warn(NODE, "AddressRefused", "no")
        await trio.sleep(10)
        assert [each["count"] for each in told.made] == [5]
        made.warn(NODE, "AddressRefused", "no")
        await trio.sleep(700)
        assert told.changed == []
        made.warn(NODE, "AddressRefused", "no")
        await trio.sleep(10)
        assert [each["count"] for each in told.changed] == [7]
        (event,) = told.made
        assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "edge-1", "uid": "u"}
        assert event["metadata"]["namespace"] == "default"
        made.warn(About(CONFIG_MAPS, "ports", "kube-system", "v"), "PortRefused", "x" * 2000)
        await trio.sleep(10)
        assert told.made[1]["metadata"]["namespace"] == "kube-system"
        assert len(told.made[1]["message"]) == 1024
        assert told.outcomes == {"told": 3}


async def test_what_is_too_much_is_dropped_and_counted(autojump_clock) -> None:
    async with telling() as (made, told):
        for number in range(events._WAITING + 10):
            made.warn(node(number), "AddressRefused", str(number))
        assert told.outcomes == {"dropped": 10}
        await trio.sleep(300)
        assert len(told.made) == events._WAITING
        assert told.made[0]["message"] == "10"
        # What was dropped is news again.
        made.warn(node(3), "AddressRefused", "3")
        await trio.sleep(10)
        assert told.made[-1]["message"] == "3"


async def test_an_apiserver_that_is_away_is_waited_for_and_a_refusal_is_not(autojump_clock) -> None:
    async with telling() as (made, told):
        told.failures = [ApiFailure("away"), ApiFailure("busy", status=503)]
        made.warn(NODE, "AddressRefused", "one")
        await trio.sleep(300)
        assert [each["message"] for each in told.made] == ["one"]
        told.failures = [ApiFailure("forbidden", status=403)]
        made.warn(NODE, "AddressRefused", "two")
        made.warn(NODE, "AddressRefused", "three")
        await trio.sleep(300)
        assert [each["message"] for each in told.made] == ["one", "three"]
        assert told.outcomes == {"told": 2, "failed": 1}


async def test_one_that_has_expired_is_made_anew(autojump_clock) -> None:
    async with telling() as (made, told):
        made.warn(NODE, "AddressRefused", "one")
        await trio.sleep(1000)
        told.failures = [ApiFailure("not found", status=404)]
        made.warn(NODE, "AddressRefused", "one")
        await trio.sleep(10)
        assert [each["count"] for each in told.made] == [1, 2]


async def test_what_is_remembered_is_bounded(autojump_clock) -> None:
    async with telling() as (made, _told):
        for number in range(2 * events._OBJECTS):
            made.warn(node(number), "AddressRefused", str(number))
        assert len(made._told) == events._KNOWN
        assert len(made._waiting) == events._WAITING
        assert len(made._allowances) == events._OBJECTS


async def test_one_that_changes_all_the_time_keeps_nobody_elses_back(
    autojump_clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with telling() as (made, told):
        for second in range(3600):
            made.warn(NODE, "AddressRefused", f"192.168.{second // 250}.{second % 250} is not captured")
            if second == 600:
                made.warn(node(2), "AddressShared", "the other's")
            await trio.sleep(1)
        of_others = [each for each in told.made if each["involvedObject"]["name"] == "edge-2"]
        assert len(of_others) == 1
        assert events._BURST < len(told.made) <= events._BURST + 13
        assert told.outcomes["dropped"] > 3000
        assert 1 <= len(caplog.messages) < 20
        assert "Node edge-1 changes too often for all of it to be told: 192.168." in caplog.messages[0]
