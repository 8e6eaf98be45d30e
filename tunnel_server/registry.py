"""Which nodes there are, where they are reached, and which agent session speaks for each.

Identity comes from certificates alone: a node's name is what its verified certificate carries. A known node
stays known, and its addresses captured, while it is away; which those are, `tunnel_server.claims` knows.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tunnel_server.agent_session import AgentSession
from tunnel_server.claims import AddressRules, Claims
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.hello import DrainReason
from tunnel_wire.session import Session
from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from certs.addresses import IPAddress, IPNetwork
    from tunnel_server.agent_session import AgentLink
    from tunnel_wire.flow import Budget, SegmentPool
    from tunnel_wire.hello import Hello
    from tunnel_wire.limits import WireLimits

log = logging.getLogger(__name__)

_NODE_SHARE = 0.5
"""Part of the memory budget that the streams of one node may take at most."""
_PROBLEM_SHOWN = 300.0
"""Seconds that a problem stands in the status after it was last seen."""


class Refused(Exception):
    """A link is not taken; the agent is told `reason`."""

    def __init__(self, reason: DrainReason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(eq=False)
class Node:
    """An edge machine, connected or away."""

    name: str
    addresses: frozenset[IPAddress] = frozenset()
    certified: frozenset[IPAddress] | None = None
    """What its certificate names; None if no certificate of it is known."""
    refused: Mapping[IPAddress, str] = field(default_factory=dict)
    """What it claims and may not hold, and why."""
    agent: AgentSession | None = None
    former: AgentSession | None = None
    """The last that it had: while it is away, its streams may be suspended."""
    since: float | None = None
    """trio's clock at the last change between connected and away; None if it was never here."""
    revoked: str = ""
    """When its last certificate was revoked, and why; it holds no address then."""
    withheld: frozenset[IPAddress] = frozenset()
    """What it would hold, were it not revoked. Another node may have these; no other machine is there."""
    open_calls: int = 0
    bytes_up: int = 0
    """From callers to the edge."""
    bytes_down: int = 0
    adopting: trio.Lock = field(default_factory=trio.Lock)
    linked: trio.Event = field(default_factory=trio.Event)
    """Set at the next link, and then replaced."""
    _problem: tuple[float, str] = (0.0, "")

    @property
    def problem(self) -> str:
        """What the operator should know, if it was seen lately."""
        seen, text = self._problem
        return text if text and trio.current_time() - seen < _PROBLEM_SHOWN else ""

    def note_problem(self, text: str) -> None:
        """Show `text` in the status for a while."""
        self._problem = (trio.current_time(), text)


def forgetting(name: str) -> str:
    """What to do where a node that is away claims an address that another one needs."""
    return f"; if {name}, which is away, will not come back: tunnelctl nodes forget {name}"


class Registry:
    """Nodes by name and by address."""

    def __init__(
        self,
        *,
        edge_networks: tuple[IPNetwork, ...],
        budget: Budget,
        pool: SegmentPool,
        limits: WireLimits,
        links_per_node: int,
        on_addresses: Callable[[], None],
    ) -> None:
        self.nodes: dict[str, Node] = {}
        self._owners: dict[str, Node] = {}
        """By session: `former` the other way round. Thousands of agents come back at once."""
        self.budget = budget
        self.claims = Claims(AddressRules(edge_networks), on_addresses)
        self._pool = pool
        self._limits = limits
        self.links_per_node = links_per_node

    # --- who is where -----------------------------------------------------------------------------

    def node(self, name: str) -> Node:
        """The node of this name, known from now on. What addresses it has is said by `learn`."""
        return self.nodes.setdefault(name, Node(name))

    def learn(self, name: str, addresses: Iterable[IPAddress]) -> Node:
        """A node's certificate, which is good, names these addresses."""
        node = self.node(name)
        node.revoked, node.certified = "", frozenset(addresses)
        self.claims.settle(node)
        return node

    def assign(self, edges: Mapping[str, frozenset[IPAddress]], others: Iterable[str]) -> None:
        """A cluster has these edges, with these addresses, and `others`, which have none; and no more Nodes.

        Those are known from now on. One that it had before, and of which no certificate is known, is not.
        Whoever has changed the rules too calls `review` besides.
        """
        before = self.claims.assigned
        self.claims.assigned = {**dict.fromkeys(others, frozenset()), **edges}
        for name in edges.keys() - self.nodes.keys():
            self.claims.settle(self.node(name))
        for node in list(self.nodes.values()):
            if before.get(node.name) != self.claims.assigned.get(node.name):
                self.claims.settle(node)
            if node.name not in edges and node.certified is None and node.agent is None and not node.revoked:
                self.forget(node)

    def review(self) -> None:
        """The rules have changed: look at every claim again."""
        for node in self.nodes.values():
            self.claims.settle(node)

    def withdraw(self, node: Node, why: str, recorded: Iterable[IPAddress] = ()) -> None:
        """A node was revoked, `why` says when: others may have its addresses now.

        Those, and what is `recorded` for it, stay reserved for nodes.
        """
        node.revoked = why
        self._end_former(node, EndCause.REVOKED)
        self.claims.withdraw(node, recorded)

    def forget(self, node: Node) -> None:
        """A node will not come back: know neither its name nor its addresses."""
        self._end_former(node, EndCause.FORGOTTEN)
        self.claims.drop(node)
        del self.nodes[node.name]

    def addresses(self) -> set[IPAddress]:
        """Every address that some node holds, shared ones included."""
        return self.claims.addresses()

    def holders(self, address: IPAddress) -> list[Node]:
        """The nodes that hold `address`."""
        return self.claims.holders(address)

    def is_reserved(self, address: IPAddress) -> bool:
        """Whether `address` is a node's: one holds it, or would, were it not revoked."""
        return bool(self.holders(address)) or self.claims.former(address) is not None

    def find(self, name: str) -> Node | None:
        """The node of this name, if one is called so."""
        return self.nodes.get(name)

    def by_name(self, name: str) -> Node:
        """Raises OpenFailed (no-such-node)."""
        node = self.find(name)
        if node is None:
            raise OpenFailed(Cause.NO_SUCH_NODE, f"no node is called {name}; see `tunnelctl nodes`")
        return node

    def by_address(self, address: IPAddress) -> Node:
        """Raises OpenFailed: no-such-node, or address-shared when several nodes claim the address."""
        holders = self.holders(address)
        if len(holders) == 1:
            return holders[0]
        if not holders:
            if (former := self.claims.former(address)) is not None:
                text = f"no node has the address {address} any more, {former.name} had it: {former.revoked}"
                raise OpenFailed(Cause.NO_SUCH_NODE, text)
            raise OpenFailed(Cause.NO_SUCH_NODE, f"no node has the address {address}; see `tunnelctl nodes`")
        names = ", ".join(sorted(holder.name for holder in holders))
        text = f"{address} is claimed by several nodes, {names}: reach each by its name"
        away = [holder.name for holder in holders if holder.agent is None]
        # If all are, the server may just have started.
        raise OpenFailed(
            Cause.ADDRESS_SHARED, text + forgetting(away[0]) if 0 < len(away) < len(holders) else text
        )

    async def wait_for(self, node: Node, patience: float) -> AgentSession:
        """The session that can open streams of `node` now, or within `patience` seconds.

        Raises OpenFailed (away). Cancelled, nothing has changed.
        """
        agent = node.agent
        if agent is not None and agent.usable:
            return agent
        if node.revoked:
            raise OpenFailed(Cause.AWAY, node.revoked)
        with trio.move_on_after(patience):
            while True:
                await node.linked.wait()
                agent = node.agent
                if agent is not None and agent.usable:
                    return agent
        waited = f" and did not come back within {patience:g} s" if patience else ""
        raise OpenFailed(Cause.AWAY, f"{node.name} is not connected{waited}")

    # --- who speaks for it ------------------------------------------------------------------------

    async def adopt(self, node: Node, hello: Hello, link: AgentLink) -> AgentSession:
        """Take `link` for the node. Raises `Refused`. Cancelled, nothing has changed.

        The newest session replaces a stale one. One that still answers is another machine with the
        same certificate: then the first one stays, and the newcomer is refused, so that they do not flap.
        """
        async with node.adopting:
            if self.nodes.get(node.name) is not node:
                raise Refused(DrainReason.REPLACED, f"{node.name} was forgotten just now: dial again")
            owner = self._owners.get(hello.session)
            if owner is not None and owner is not node:
                log.error("%s shows a session of %s: it is refused", node.name, owner.name)
                raise Refused(DrainReason.DUPLICATE, "the session is another node's")
            current = node.agent
            other = current is not None and current.session.identifier != hello.session
            if current is not None and other and await current.answers():
                first = next(iter(current.links.values())).remote
                text = (
                    f"two machines use the certificate of {node.name}: {first} is connected, "
                    f"{link.remote} is refused; give one of them a name of its own with a new token"
                )
                log.error("%s", text)
                node.note_problem(text)
                raise Refused(DrainReason.DUPLICATE, f"{node.name} is connected from {first} already")
            if link.ending:  # since whoever asks has looked
                raise Refused(DrainReason.REVOKED, f"the certificate of {node.name} is accepted no longer")
            if other:
                self._drop(node, "replaced by a newer session of the same node")
            return self._add(node, hello, link)

    def _add(self, node: Node, hello: Hello, link: AgentLink) -> AgentSession:
        agent = node.agent
        former = node.former
        if agent is None and former is not None:
            if former.session.identifier == hello.session and link.connection.resumes:
                agent = node.agent = former
                node.since = trio.current_time()
            else:
                self._end_former(node)
        if agent is None:
            session = Session(
                budget=self.budget,
                limits=self._limits,
                pool=self._pool,
                identifier=hello.session,
                # The agent keeps its session over our sessions with it: no key may come back.
                first_key=secrets.randbits(62),
                share=_NODE_SHARE,
            )
            session.suspended.grace = float(int(self._limits.resume_grace))
            agent = node.agent = node.former = AgentSession(session)
            self._owners[hello.session] = node
            node.since = trio.current_time()
        old = agent.links.pop(hello.link, None)
        if old is not None:
            old.link.close("replaced by a new link of the same session")
        if hello.links is not None:
            for index in agent.links.keys() - hello.links:
                agent.links.pop(index).link.close("the agent has lost it already")
        if old is None and len(agent.links) >= self.links_per_node:
            detail = f"{node.name} has {len(agent.links)} links already, see links-per-node"
            raise Refused(DrainReason.REPLACED, detail)
        agent.links[hello.link] = link
        link.version = hello.version
        link.connection.session = agent.session
        agent.suspended_by.clear()
        agent.resume(link)
        agent.spread()
        node.linked.set()
        node.linked = trio.Event()
        self.learn(node.name, link.addresses)
        return agent

    def _end_former(self, node: Node, cause: EndCause = EndCause.AGENT_ANEW) -> None:
        former, node.former = node.former, None
        if former is not None:
            self._owners.pop(former.session.identifier, None)
            former.session.end_suspended(cause)

    def _drop(self, node: Node, reason: str) -> None:
        agent, node.agent = node.agent, None
        node.since = trio.current_time()
        if agent is not None:
            for link in agent.links.values():
                link.link.close(reason, for_good=True)
            agent.links.clear()
        self._end_former(node)

    def remove(self, node: Node, agent: AgentSession, link: AgentLink) -> None:
        """The link has ended."""
        for index, held in list(agent.links.items()):
            if held is link:
                del agent.links[index]
        if agent.session.suspended:
            if (other := agent.emptiest()) is not None:
                agent.resume(other)
            elif link.watched is not None:
                agent.suspended_by.append(link.watched)
        if node.agent is agent and not agent.links:
            node.agent = None
            node.since = trio.current_time()
