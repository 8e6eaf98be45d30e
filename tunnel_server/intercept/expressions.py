"""The expressions that the rules of `table.py` are made of, as nftables' netlink messages carry them.

Each works on registers: a piece of the packet is loaded into one, and compared, looked up or used.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tunnel_server.intercept.config import Address
    from tunnel_server.intercept.messages import Attributes

TYPE_PORT, _TYPE_IPV4, _TYPE_IPV6 = 13, 7, 8  # libnftables' numbers, which `nft list` reads
_RETURN = -5
_META_MARK, _META_PROTOCOL_FAMILY, _META_L4PROTO = 3, 15, 16
_FIB_RESULT_TYPE, _FIB_FLAG_DESTINATION, _ADDRESS_LOCAL = 3, 2, 2
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_NAT_DESTINATION = 1
_TCP = b"\x06"
_VERDICT, _R1, _R2 = 0, 1, 2

Nested = dict[str, "Attributes"]


class Family:
    """What differs between the two address families: names, offsets, sizes, numbers."""

    def __init__(
        self, version: int, number: int, kind: int, size: int, source: int, destination: int
    ) -> None:
        self.edges, self._callers = f"edges{version}", f"callers{version}"
        self.number, self.kind, self.size = number, kind, size
        self.source, self.destination = source, destination

    def callers(self, change: int) -> str:
        """The name of the set of callers, after so many changes of them."""
        return f"{self._callers}-{change}"


FAMILIES = {4: Family(4, 2, _TYPE_IPV4, 4, 12, 16), 6: Family(6, 10, _TYPE_IPV6, 16, 8, 24)}


def to_edge(family: Family, callers: str | None = None) -> list[Nested]:
    """Match TCP to an edge's address, from the set `callers` if one is named."""
    sources = [_payload(_NETWORK_HEADER, family.source, family.size), _in_set(callers)] if callers else []
    return [
        _meta(_META_PROTOCOL_FAMILY),
        _equals(bytes([family.number])),
        *sources,
        _payload(_NETWORK_HEADER, family.destination, family.size),
        _in_set(family.edges),
        _meta(_META_L4PROTO),
        _equals(_TCP),
    ]


def redirect() -> list[Nested]:
    """Go to this host, at the listener's port that the map has for the packet's; without one, go on."""
    return [*_listener_port(_R1), _expression("redir", ("NFTA_REDIR_REG_PROTO_MIN", _R1))]


def translate(family: Family, address: Address) -> list[Nested]:
    """Go to `address`, at the listener's port that the map has for the packet's; without one, go on."""
    nat = _expression(
        "nat",
        ("NFTA_NAT_TYPE", _NAT_DESTINATION),
        ("NFTA_NAT_FAMILY", family.number),
        ("NFTA_NAT_REG_ADDR_MIN", _R1),
        ("NFTA_NAT_REG_PROTO_MIN", _R2),
    )
    load = _expression(
        "immediate", ("NFTA_IMMEDIATE_DREG", _R1), ("NFTA_IMMEDIATE_DATA", as_data(address.packed))
    )
    return [load, *_listener_port(_R2), nat]


def _listener_port(register: int) -> list[Nested]:
    lookup = _expression(
        "lookup", ("NFTA_LOOKUP_SET", "ports"), ("NFTA_LOOKUP_SREG", register), ("NFTA_LOOKUP_DREG", register)
    )
    return [_payload(_TRANSPORT_HEADER, 2, 2, register), lookup]


def destination_is_local() -> list[Nested]:
    """Match what goes to an address of this host."""
    fib = _expression(
        "fib",
        ("NFTA_FIB_DREG", _R1),
        ("NFTA_FIB_RESULT", _FIB_RESULT_TYPE),
        ("NFTA_FIB_FLAGS", _FIB_FLAG_DESTINATION),
    )
    return [fib, _equals(struct.pack("=I", _ADDRESS_LOCAL))]


def has_mark(mark: int) -> list[Nested]:
    """Match packets with this mark."""
    return [_meta(_META_MARK), _equals(struct.pack("=I", mark))]


def _meta(key: int) -> Nested:
    return _expression("meta", ("NFTA_META_KEY", key), ("NFTA_META_DREG", _R1))


def _payload(base: int, offset: int, size: int, register: int = _R1) -> Nested:
    return _expression(
        "payload",
        ("NFTA_PAYLOAD_DREG", register),
        ("NFTA_PAYLOAD_BASE", base),
        ("NFTA_PAYLOAD_OFFSET", offset),
        ("NFTA_PAYLOAD_LEN", size),
    )


def _in_set(name: str) -> Nested:
    return _expression("lookup", ("NFTA_LOOKUP_SET", name), ("NFTA_LOOKUP_SREG", _R1))


def _equals(value: bytes) -> Nested:
    return _expression("cmp", ("NFTA_CMP_SREG", _R1), ("NFTA_CMP_OP", 0), ("NFTA_CMP_DATA", as_data(value)))


def leave_chain() -> Nested:
    """Leave what matched alone."""
    verdict = attrs(("NFTA_DATA_VERDICT", attrs(("NFTA_VERDICT_CODE", _RETURN))))
    return _expression("immediate", ("NFTA_IMMEDIATE_DREG", _VERDICT), ("NFTA_IMMEDIATE_DATA", verdict))


def _expression(name: str, *attributes: tuple[str, Any]) -> Nested:
    return attrs(("NFTA_EXPR_NAME", name), ("NFTA_EXPR_DATA", attrs(*attributes)))


def as_data(data: bytes) -> Nested:
    """Data as elements and comparisons carry it."""
    return attrs(("NFTA_DATA_VALUE", data))


def attrs(*attributes: tuple[str, Any]) -> Nested:
    """Nested attributes, as pyroute2 wants them."""
    return {"attrs": list(attributes)}
