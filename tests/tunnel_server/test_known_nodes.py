"""The nodes on disk and in the registry: who holds an address, who no longer does, and who is forgotten."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio

from certs.nodes import NODES_FILE, NodeRecord, NodeStore
from certs.revocations import Kind, RevocationStore
from tests.tunnel_server.core import ADDRESS, Core, running
from tunnel_server import known_nodes, links
from tunnel_server.known_nodes import KnownNodes
from tunnel_server.node_lives import LOOK_EVERY, NodeLives, forget_departed
from tunnel_wire.causes import OpenFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from trio.testing import MockClock

    from tunnel_server.registry import Node

NOW = datetime.now(UTC)
HELD = ip_address(ADDRESS)


@dataclass
class Known:
    """A core, and the nodes that its state directory knows."""

    core: Core
    nodes: KnownNodes
    store: NodeStore

    def record(self, *names: str, serial: str = "1f") -> None:
        records = {
            name: NodeRecord(name, (HELD,), serial, NOW + timedelta(days=9), NOW - timedelta(days=1))
            for name in names
        }
        with self.core.state.transaction() as transaction:
            transaction.write({NODES_FILE: NodeStore.encode(records)})

    async def revoke(self, kind: Kind = Kind.NODE, value: str = "edge-1") -> None:
        self.core.revoke(kind, value)
        await self.follow()

    async def undo(self, value: str = "edge-1") -> None:
        RevocationStore(self.core.state).remove(Kind.NODE, value)
        self.core.acceptance.revocations.reload()
        await self.follow()

    async def follow(self) -> None:
        """As `keep` does; twice, so that the first round is over."""
        for _ in range(2):
            self.nodes.revocations_changed()
            await trio.sleep(0.05)

    def holder(self) -> Node:
        return self.core.registry.by_address(HELD)


@asynccontextmanager
async def known() -> AsyncIterator[Known]:
    async with running() as core:
        store = NodeStore(core.state)

        def look() -> None:
            core.look()
            nodes.revocations_changed()

        nodes = KnownNodes(
            store, core.registry, core.acceptance.revocations, accepted=core.links.accepted, look=look
        )
        core.nursery.start_soon(nodes.keep)
        yield Known(core, nodes, store)


async def test_a_revoked_nodes_address_may_be_anothers() -> None:
    async with known() as made:
        made.record("edge-1", "edge-2")
        made.nodes.load()
        with pytest.raises(OpenFailed, match="several nodes, edge-1, edge-2"):
            made.holder()
        await made.revoke()
        assert made.holder().name == "edge-2"
        # It is known still, by its name, and a call does not wait for it.
        node = made.core.registry.by_name("edge-1")
        with trio.fail_after(10), pytest.raises(OpenFailed, match="node edge-1 was revoked at"):
            await made.core.registry.wait_for(node, 60)
        await made.undo()
        with pytest.raises(OpenFailed, match="several nodes, edge-1, edge-2"):
            made.holder()


async def test_a_revoked_nodes_address_is_no_other_machines() -> None:
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        await made.revoke()
        assert made.core.registry.is_reserved(HELD)
        with pytest.raises(OpenFailed, match=f"{ADDRESS} any more, edge-1 had it: node edge-1 was revoked"):
            made.holder()
        await made.undo()
        assert made.holder().name == "edge-1"
        assert not made.core.registry.claims._withdrawn
        await made.revoke()
        await made.nodes.forget("edge-1")
        assert not made.core.registry.is_reserved(HELD)


@pytest.mark.parametrize(("kind", "value"), [(Kind.NODE, "edge-1"), (Kind.SERIAL, "1f")])
async def test_over_a_restart(kind: Kind, value: str) -> None:
    async with known() as made:
        made.record("edge-1")
        made.core.revoke(kind, value)
        made.nodes.load()
        assert made.core.registry.addresses() == set()
        assert made.core.registry.by_name("edge-1").revoked
        assert made.core.registry.is_reserved(HELD)
        # What is read again because of other networks changes nothing about it.
        made.nodes.learn(await made.nodes.read())
        assert made.core.registry.addresses() == set()


async def test_a_link_with_a_later_certificate_brings_them_back() -> None:
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        await made.revoke(Kind.SERIAL, "1f")
        assert made.core.registry.addresses() == set()
        agent = await made.core.agent()
        await made.core.wait_linked("edge-1", agent.session)
        assert made.holder().name == "edge-1"
        # What is on disk is older than the certificate that it shows.
        await made.follow()
        assert made.holder().name == "edge-1"
        assert not made.holder().revoked


async def test_one_that_is_linked_is_cut_and_holds_no_more() -> None:
    async with known() as made:
        made.record("edge-1")
        agent = await made.core.agent()
        await made.core.wait_linked("edge-1", agent.session)
        await made.revoke()
        assert made.core.registry.addresses() == set()
        await agent.wait_over()
        assert made.core.registry.addresses() == set()


async def test_records_that_cannot_be_read_change_nothing_until_they_can(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_nodes, "_RETRY", 0.05)
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        with made.core.state.transaction() as transaction:
            transaction.write({NODES_FILE: b"{"})
        await made.revoke()
        assert made.holder().name == "edge-1"
        assert caplog.text.count("the addresses of revoked nodes stay as they were") == 1
        made.record("edge-1")
        await trio.sleep(0.2)
        assert made.core.registry.addresses() == set()


async def test_one_is_forgotten() -> None:
    async with known() as made:
        made.record("edge-1", "edge-2")
        made.nodes.load()
        forgotten = await made.nodes.forget("edge-1")
        assert (forgotten.addresses, forgotten.certificate_serial) == ((ADDRESS,), "1f")
        assert forgotten.certificate_revoked == ""
        assert made.holder().name == "edge-2"
        assert list(made.store.load()) == ["edge-2"]
        with pytest.raises(LookupError, match="no node is called edge-1; see `tunnelctl nodes`"):
            await made.nodes.forget("edge-1")
        await made.revoke(value="edge-2")
        assert "node edge-2 was revoked" in (await made.nodes.forget("edge-2")).certificate_revoked
        # Only its certificate decides whether it comes back.
        agent = await made.core.agent()
        await made.core.wait_linked("edge-1", agent.session)
        assert made.holder().name == "edge-1"
        assert (await _refused(made, "edge-2")) == "revoked"


async def _refused(made: Known, name: str) -> str:
    agent = await made.core.agent(made.core.node(name), node=name)
    await agent.wait_over()
    return agent.drained[0][0]


async def test_one_that_is_linked_is_not() -> None:
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        agent = await made.core.agent()
        await made.core.wait_linked("edge-1", agent.session)
        linked = r"edge-1 is linked from 127\.0\.0\.1:\d+: stop its agent first"
        with trio.fail_after(2), pytest.raises(ValueError, match=linked):
            await made.nodes.forget("edge-1")
        assert list(made.store.load()) == ["edge-1"]
        assert made.holder().agent is not None


async def test_one_that_was_revoked_in_the_same_breath_is() -> None:
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        agent = await made.core.agent()
        await made.core.wait_linked("edge-1", agent.session)
        made.core.revoke(Kind.NODE, "edge-1", noticed=False)
        assert not agent.drained
        forgotten = await made.nodes.forget("edge-1")
        assert "node edge-1 was revoked" in forgotten.certificate_revoked
        assert agent.drained[0][0] == "revoked"
        assert made.core.registry.find("edge-1") is None


async def test_one_that_is_forgotten_while_the_records_are_read_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with known() as made:
        made.record("edge-1", "edge-2")
        made.nodes.load()
        read, go_on, reading = made.store.load, trio.Event(), trio.Event()

        async def read_slowly() -> Mapping[str, NodeRecord]:
            records = read()
            reading.set()
            await go_on.wait()
            return records

        monkeypatch.setattr(made.nodes, "read", read_slowly)
        made.core.revoke(Kind.NODE, "edge-1")
        made.nodes.revocations_changed()
        await reading.wait()
        await made.nodes.forget("edge-1")
        go_on.set()
        await made.follow()
        assert made.core.registry.find("edge-1") is None
        assert made.holder().name == "edge-2"


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_hello_after_the_revocation_brings_nobody_back(
    forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "_CUT", 1.0)
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()

        def leave() -> None:
            made.core.revoke(Kind.NODE, "edge-1")
            if forgotten:
                made.store.remove("edge-1")
                made.core.registry.forget(made.core.registry.nodes["edge-1"])
            else:
                made.nodes.revocations_changed()

        agent = await made.core.agent(before_hello=leave)
        await agent.wait_over()
        assert agent.link.hello_received.is_set(), "it was cut before it could say who it is"
        assert [reason for reason, _ in agent.drained] == ["revoked"]
        await made.follow()
        assert made.core.registry.addresses() == set()
        node = made.core.registry.find("edge-1")
        assert node is None if forgotten else node.revoked


async def test_a_link_that_comes_while_it_is_forgotten_dials_again() -> None:
    async with known() as made:
        made.record("edge-1")
        made.nodes.load()
        node = made.core.registry.nodes["edge-1"]
        async with node.adopting:
            agent = await made.core.agent()
            with trio.fail_after(5):
                while not node.adopting.statistics().tasks_waiting:
                    await trio.sleep(0.01)
            made.core.registry.forget(node)
        await agent.wait_over()
        assert agent.drained == [("replaced", "edge-1 was forgotten just now: dial again")]
        again = await made.core.agent()
        await made.core.wait_linked("edge-1", again.session)
        assert made.holder().name == "edge-1"


async def test_attested_ones_are_forgotten_with_their_nodes(autojump_clock: MockClock) -> None:
    async with known() as made:
        record = NodeRecord(
            "edge-1", (), "1f", NOW + timedelta(days=9), NOW - timedelta(days=1), attested=True
        )
        others = [replace(record, name="edge-2"), replace(record, name="lathe-1", attested=False)]
        records = {each.name: each for each in (record, *others)}
        with made.core.state.transaction() as transaction:
            transaction.write({NODES_FILE: NodeStore.encode(records)})
        made.nodes.load()
        lives = NodeLives()
        made.core.nursery.start_soon(forget_departed, lives, made.nodes, made.store)
        await trio.sleep(1.5 * LOOK_EVERY)
        assert made.store.load().keys() == records.keys(), "the cluster has said nothing yet"
        lives.learn({"edge-2": NOW.timestamp() - 2 * 86400})
        while made.core.registry.find("edge-1"):
            await trio.sleep(LOOK_EVERY)
        assert made.store.load().keys() == {"edge-2", "lathe-1"}
