"""The table `inet edge-tunnel`, as data: what it is, and the messages that build, change and remove it.

    set edges4, edges6          captured addresses
    map ports                   captured port : port of the listener
    set callers4-N, callers6-N  who is captured in `prerouting`; only with caller networks
    chain output (nat, priority -105)
        fib daddr type local return                         this host's own addresses stay its own
        meta mark MARK return                               the server's own dials
        ip daddr @edges4 meta l4proto tcp redirect to :tcp dport map @ports
        ip6 daddr @edges6 meta l4proto tcp redirect to :tcp dport map @ports
    chain prerouting (nat, priority -105)                   only with caller networks
        fib daddr type local return
        ip saddr @callers4-N ip daddr @edges4 meta l4proto tcp dnat ip to HOST : tcp dport map @ports
        ip6 saddr @callers6-N ip6 daddr @edges6 meta l4proto tcp dnat ip6 to HOST : tcp dport map @ports

Priority: destination NAT, kube-proxy's included (iptables or nftables), happens at -100, and the first
chain that translates a connection decides; connection tracking is at -200 and nat chains must come after
it. -105 is just ahead of everybody's. A port that is not in the map ends its rule without a verdict, so
that the packet goes on as if there were no table. `redirect` in `output` lands on 127.0.0.1 and ::1. In
`prerouting` it would need an address on the interface the packet came in by, which the host's side of a
pod's veth lacks; and 127.0.0.1 is not reachable from there at all without route_localnet; hence `dnat` to a
configured address of the host.

N counts the changes of callers, because these take three transactions. A packet meets the rules that were in
force when it came to the chain, but the elements that are in force when it comes to the set: if a rule and
its set went in one transaction, a packet between the two would find the set empty, and a connection whose
first packet goes by is never captured (measured: one in four changes at 100,000 packets a second; none in
2,000 so). Elements of `edges` and `ports` need no such care: those that stay are not touched, and one that
is replaced is found as the one or as the other.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import collapse_addresses
from typing import TYPE_CHECKING

from tunnel_server.intercept import messages as nl
from tunnel_server.intercept.expressions import (
    FAMILIES,
    TYPE_PORT,
    Nested,
    as_data,
    attrs,
    destination_is_local,
    has_mark,
    leave_chain,
    redirect,
    to_edge,
    translate,
)
from tunnel_server.intercept.messages import Attributes, Message, nftables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from tunnel_server.intercept.config import Address, InterceptConfig, Network

NAME = "edge-tunnel"
FLAG_OWNER = 0x2  # NFT_TABLE_F_OWNER, Linux 5.12: only this socket may change the table, and it goes with it
PRIORITY = -105

_ACCEPT = 1
_HOOK_PREROUTING, _HOOK_OUTPUT = 0, 3
_INTERVAL_END = 1
_ELEMENTS_A_MESSAGE = 1000  # of at most 36 bytes each: an attribute holds 64 KiB


def owner_comment(port: int) -> str:
    """The table's comment: names the netlink port of the server that holds it.

    It tells a living owner from a dead one's leftover on kernels that have no owner flag.
    """
    return f"tunnel-server, netlink port {port}"


def build(config: InterceptConfig, *, port: int, owned: bool, change: int = 0) -> list[Message]:
    """The messages that make the table, without elements, whatever stood there before.

    `change` numbers the sets of callers.
    """
    made: Attributes = [("NFTA_TABLE_NAME", NAME), ("NFTA_TABLE_USERDATA", owner_comment(port))]
    if owned:
        made.append(("NFTA_TABLE_FLAGS", FLAG_OWNER))
    result = [
        # There must be one, for DELTABLE not to fail; without flags this changes none that is there.
        nftables(nl.NEWTABLE, [("NFTA_TABLE_NAME", NAME)], f"table {NAME}", nl.NLM_F_CREATE),
        *delete(),
        nftables(nl.NEWTABLE, made, f"table {NAME}", nl.NLM_F_CREATE),
        _set(1, "edges4", FAMILIES[4].kind, 4),
        _set(2, "edges6", FAMILIES[6].kind, 16),
        _set(3, "ports", TYPE_PORT, 2, [("NFTA_SET_DATA_TYPE", TYPE_PORT), ("NFTA_SET_DATA_LEN", 2)]),
        _chain("output", _HOOK_OUTPUT),
        _rule("output", [*destination_is_local(), leave_chain()]),
        _rule("output", [*has_mark(config.mark), leave_chain()]),
    ]
    result += [_rule("output", [*to_edge(family), *redirect()]) for family in FAMILIES.values()]
    return result + _caller_sets(config, change) + _prerouting(config, change)


def delete() -> list[Message]:
    """The messages that remove the table."""
    return [nftables(nl.DELTABLE, [("NFTA_TABLE_NAME", NAME)], f"table {NAME}")]


def get() -> Message:
    """The question whether there is a table, and whose."""
    return nftables(nl.GETTABLE, [("NFTA_TABLE_NAME", NAME)], f"table {NAME}")


def difference(
    old: tuple[Collection[Address], Mapping[int, int]], new: tuple[Collection[Address], Mapping[int, int]]
) -> list[Message]:
    """The messages that turn the elements of `old` (addresses, ports) into those of `new`; none if equal."""
    (old_addresses, old_ports), (new_addresses, new_ports) = old, new
    gone, come = set(old_addresses) - set(new_addresses), set(new_addresses) - set(old_addresses)
    result: list[Message] = []
    for version, family in FAMILIES.items():
        for kind, addresses in ((nl.DELSETELEM, gone), (nl.NEWSETELEM, come)):
            keys = sorted(address.packed for address in addresses if address.version == version)
            result += _elements(kind, family.edges, [_element(key) for key in keys])
    changed = {
        port for port in old_ports.keys() | new_ports.keys() if old_ports.get(port) != new_ports.get(port)
    }
    gone_ports = sorted(changed & old_ports.keys())
    new_elements = [(port, new_ports[port]) for port in sorted(changed & new_ports.keys())]
    result += _elements(nl.DELSETELEM, "ports", [_element(_port(port)) for port in gone_ports])
    result += _elements(
        nl.NEWSETELEM, "ports", [_element(_port(port), _port(target)) for port, target in new_elements]
    )
    return result


def change_callers(old: InterceptConfig, new: InterceptConfig, change: int) -> list[list[Message]]:
    """The transactions, in order, that capture the callers of `new` instead of those of `old`; none if equal.

    The sets of `old` have the number `change`, those of `new` get the next one. Nothing but the chain
    `prerouting` and its sets is touched, and whoever is a caller before and after is captured all the while.
    Stopped after any of them, the table captures either the ones or the others, and may hold sets that serve
    nothing, in whose place the same change is refused (EEXIST).
    """
    before, after = list(old.prerouting()), list(new.prerouting())
    if before == after:
        return []
    chain: Attributes = [("NFTA_CHAIN_TABLE", NAME), ("NFTA_CHAIN_NAME", "prerouting")]
    rules: Attributes = [("NFTA_RULE_TABLE", NAME), ("NFTA_RULE_CHAIN", "prerouting")]
    switch: list[Message] = []
    if before:
        switch.append(nftables(nl.DELRULE, rules, "rules of chain prerouting"))
    if before and not after:
        switch.append(nftables(nl.DELCHAIN, chain, "chain prerouting"))
    # The chain itself stays if it is needed before and after: of two, a packet could pass between.
    switch += _prerouting(new, change + 1)
    unused: list[Message] = []
    for address, _networks in before:
        name = FAMILIES[address.version].callers(change)
        gone: Attributes = [("NFTA_SET_TABLE", NAME), ("NFTA_SET_NAME", name)]
        unused.append(nftables(nl.DELSET, gone, f"set {name}"))
    return [each for each in (_caller_sets(new, change + 1), switch, unused) if each]


def _caller_sets(config: InterceptConfig, change: int) -> list[Message]:
    result = []
    for address, networks in config.prerouting():
        family = FAMILIES[address.version]
        name = family.callers(change)
        flags: Attributes = [("NFTA_SET_FLAGS", {"NFT_SET_INTERVAL"})]
        # What a failed change left must never lend its elements to this one.
        made = _set(address.version, name, family.kind, family.size, flags)
        result.append(replace(made, flags=made.flags | nl.NLM_F_EXCL))
        result += _elements(nl.NEWSETELEM, name, _intervals(networks))
    return result


def _prerouting(config: InterceptConfig, change: int) -> list[Message]:
    serving = list(config.prerouting())
    if not serving:
        return []
    result = [
        _chain("prerouting", _HOOK_PREROUTING),
        _rule("prerouting", [*destination_is_local(), leave_chain()]),
    ]
    for address, _networks in serving:
        family = FAMILIES[address.version]
        expressions = [*to_edge(family, callers=family.callers(change)), *translate(family, address)]
        result.append(_rule("prerouting", expressions))
    return result


def _set(number: int, name: str, kind: int, size: int, more: Attributes | None = None) -> Message:
    attributes: Attributes = [
        ("NFTA_SET_TABLE", NAME),
        ("NFTA_SET_NAME", name),
        ("NFTA_SET_KEY_TYPE", kind),
        ("NFTA_SET_KEY_LEN", size),
        ("NFTA_SET_ID", number),
        *(more or []),
    ]
    if name == "ports":
        attributes.append(("NFTA_SET_FLAGS", {"NFT_SET_MAP"}))
    return nftables(nl.NEWSET, attributes, f"set {name}", nl.NLM_F_CREATE)


def _chain(name: str, hook: int) -> Message:
    attributes: Attributes = [
        ("NFTA_CHAIN_TABLE", NAME),
        ("NFTA_CHAIN_NAME", name),
        ("NFTA_CHAIN_TYPE", "nat"),
        ("NFTA_CHAIN_POLICY", _ACCEPT),
        ("NFTA_CHAIN_HOOK", attrs(("NFTA_HOOK_HOOKNUM", hook), ("NFTA_HOOK_PRIORITY", PRIORITY))),
    ]
    return nftables(nl.NEWCHAIN, attributes, f"chain {name}", nl.NLM_F_CREATE)


def _rule(chain: str, expressions: list[Nested]) -> Message:
    attributes: Attributes = [
        ("NFTA_RULE_TABLE", NAME),
        ("NFTA_RULE_CHAIN", chain),
        ("NFTA_RULE_EXPRESSIONS", expressions),
    ]
    return nftables(nl.NEWRULE, attributes, f"rule in chain {chain}", nl.NLM_F_CREATE | nl.NLM_F_APPEND)


def _elements(kind: int, name: str, elements: Sequence[Nested]) -> Iterator[Message]:
    for start in range(0, len(elements), _ELEMENTS_A_MESSAGE):
        attributes: Attributes = [
            ("NFTA_SET_ELEM_LIST_TABLE", NAME),
            ("NFTA_SET_ELEM_LIST_SET", name),
            ("NFTA_SET_ELEM_LIST_ELEMENTS", elements[start : start + _ELEMENTS_A_MESSAGE]),
        ]
        flags = nl.NLM_F_CREATE if kind == nl.NEWSETELEM else 0
        yield nftables(kind, attributes, f"elements of {name}", flags)


def _element(key: bytes, data: bytes | None = None, flags: int = 0) -> Nested:
    attributes: Attributes = [("NFTA_SET_ELEM_KEY", as_data(key))]
    if data is not None:
        attributes.append(("NFTA_SET_ELEM_DATA", as_data(data)))
    if flags:
        attributes.append(("NFTA_SET_ELEM_FLAGS", flags))
    return attrs(*attributes)


def _intervals(networks: Sequence[Network]) -> list[Nested]:
    result = []
    for network in collapse_addresses(networks):  # type: ignore[type-var]  # one family, as the caller sees to
        result.append(_element(network.network_address.packed))
        beyond = int(network.broadcast_address) + 1
        size = network.max_prefixlen // 8
        if beyond < 1 << network.max_prefixlen:
            result.append(_element(beyond.to_bytes(size, "big"), flags=_INTERVAL_END))
    return result


def _port(number: int) -> bytes:
    return struct.pack(">H", number)
