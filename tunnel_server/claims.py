"""Which node holds which address: what nodes claim, by the rules of this moment.

A claim is the edge's own, whoever relays it: its certificate, or the Node object that its kubelet writes. A
cluster that is watched decides for every Node that it has (`assign`); for other names their certificates do.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from certs.addresses import IPAddress, IPNetwork, check_edge_address
from tunnel_wire.rates import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from tunnel_server.registry import Node

log = logging.getLogger(__name__)

_NOTHING: frozenset[IPAddress] = frozenset()
_LINES, _LINES_BURST = 1 / 60, 64
"""Log lines a second about one node's claims, in the long run and at once: the edge may change them often."""


def _nothing_else(_address: IPAddress) -> str | None:
    return None


@dataclass(eq=False)
class AddressRules:
    """What a node may hold. Each part is replaced as a whole when it changes; `Claims.review` follows."""

    networks: tuple[IPNetwork, ...] = ()
    """The only ones in which edges are."""
    pins: Mapping[IPAddress, str] = field(default_factory=dict)
    """Addresses that one node alone may hold, by the operator's word. It still has to claim them."""
    undecided: str = ""
    """Why no claim can be judged yet; until this is empty, nobody holds anything."""
    otherwise: Callable[[IPAddress], str | None] = _nothing_else
    """What an address is for certain, if no edge's: `an address of kube-apiserver`."""
    elsewhere: Callable[[IPAddress], str | None] = _nothing_else
    """What an address is by the word of another machine, which a pin overrules: `an address of cp-1, which is
    no edge`."""

    def refusal(self, name: str, address: IPAddress) -> str | None:
        """Why node `name` may not hold `address`; None if it may. One line, with the remedy."""
        try:
            check_edge_address(address, self.networks)
        except ValueError as error:
            return str(error)
        if self.undecided:
            return self.undecided
        if (what := self.otherwise(address)) is not None:
            return f"{address} is {what}: no edge can hold it"
        if (pinned := self.pins.get(address)) is not None:
            if pinned == name:
                return None
            return f"{address} is pinned to {pinned}: see pinned-addresses of [nodes.{pinned}]"
        if (what := self.elsewhere(address)) is not None:
            return f"{address} is {what}: only pinned-addresses of [nodes.{name}] would give it to an edge"
        return None


class Claims:
    """Who holds what, and who claims it in vain."""

    def __init__(self, rules: AddressRules, on_change: Callable[[], None]) -> None:
        """Take `on_change`, which is called, and must not wait, when other addresses are held."""
        self.rules = rules
        self.assigned: Mapping[str, frozenset[IPAddress]] = {}
        """What a cluster says of its Nodes, by name; of those that are no edges, that they have none."""
        self._on_change = on_change
        self._holders: dict[IPAddress, list[Node]] = {}
        self._withdrawn: set[Node] = set()
        self._lines: WeakKeyDictionary[Node, Allowance] = WeakKeyDictionary()

    def settle(self, node: Node) -> None:
        """Have a node hold what it claims, within the rules. What is refused is logged once."""
        claimed = self.assigned.get(node.name, node.certified or _NOTHING)
        refused = {each: why for each in claimed if (why := self.rules.refusal(node.name, each))}
        for address, why in refused.items():
            if node.refused.get(address) != why != self.rules.undecided:
                self._tell(node, "%s is not captured for %s: %s", address, node.name, why)
        node.refused = refused
        held = claimed.difference(refused)  # "-" would make a set of the two, which can be changed
        if node.revoked:
            node.withheld |= held
            self._withdrawn.add(node)
            held = _NOTHING
        else:
            node.withheld = _NOTHING
            self._withdrawn.discard(node)
        self._move(node, held)

    def withdraw(self, node: Node, recorded: Iterable[IPAddress]) -> None:
        """Have a node that is revoked hold nothing; what it held, and what is `recorded`, stay reserved."""
        if node.addresses:
            held = ", ".join(map(str, node.addresses))
            log.warning("%s holds %s no longer: %s", node.name, held, node.revoked)
        node.withheld |= node.addresses | frozenset(recorded)
        self.settle(node)

    def drop(self, node: Node) -> None:
        """Know no more of a node."""
        self._move(node, _NOTHING)
        self._withdrawn.discard(node)

    def addresses(self) -> set[IPAddress]:
        """Every address that is held, shared ones included (calls to those are refused, not misled)."""
        return set(self._holders)

    def holders(self, address: IPAddress) -> list[Node]:
        """The nodes that hold `address`."""
        return self._holders.get(address, [])

    def shared(self) -> dict[IPAddress, list[Node]]:
        """The addresses that several nodes hold: refused for all of them."""
        return {address: holders for address, holders in self._holders.items() if len(holders) > 1}

    def former(self, address: IPAddress) -> Node | None:
        """The node that would hold `address`, were it not revoked."""
        return next((node for node in self._withdrawn if address in node.withheld), None)

    def _move(self, node: Node, addresses: frozenset[IPAddress]) -> None:
        """Have `node` hold exactly these."""
        before, node.addresses = node.addresses, addresses
        if before == addresses:
            return
        for address in before - addresses:
            self._holders[address].remove(node)
            if not self._holders[address]:
                del self._holders[address]
        for address in addresses - before:
            holders = self._holders.setdefault(address, [])
            holders.append(node)
            if len(holders) > 1:
                names = ", ".join(sorted(holder.name for holder in holders))
                self._tell(node, "%s is claimed by %s: it is refused for all of them", address, names)
        self._on_change()

    def _tell(self, node: Node, text: str, *arguments: object) -> None:
        """Log what is wrong with a node's claims, unless it changes them all the time."""
        now = time.monotonic()
        allowance = self._lines.setdefault(node, Allowance(_LINES, _LINES_BURST, now))
        if allowance.spend(now):
            log.error(text, *arguments)
