"""The netlink messages of nftables and routing, encoded by pyroute2.

This is the only module of the project that imports pyroute2, and it uses nothing of it but the message
classes: the sockets are our own (`netlink.py`), because pyroute2's each run an asyncio loop, and because the
life of the table hangs on the life of one socket. pyroute2 has no types, hence `Any` here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.nfnetlink import nfgen_msg, nftsocket  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_EXCL = 0x200
NLM_F_DUMP = 0x300
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NFPROTO_INET = 1
SUBSYSTEM_NFTABLES = 10
BATCH_BEGIN, BATCH_END = 0x10, 0x11

Attributes = list[tuple[str, Any]]


class _Table(nftsocket.nft_table_msg):  # type: ignore[misc]
    """NEWTABLE and GETTABLE with the owner (Linux 5.12), which pyroute2 0.9.7 does not know."""

    nla_map = (*nftsocket.nft_table_msg.nla_map, ("NFTA_TABLE_OWNER", "be32"))


class _Rule(nftsocket.nft_rule_msg):  # type: ignore[misc]
    """NEWRULE whose `fib` result is the number it is; pyroute2 0.9.7 encodes it as a set of flags."""

    class nft_expr(nftsocket.nft_rule_msg.nft_expr):  # type: ignore[misc]  # noqa: N801 - a name that pyroute2 looks up
        class nft_fib(nftsocket.nft_rule_msg.nft_expr.nft_fib):  # type: ignore[misc]  # noqa: N801
            nla_map = (
                ("NFTA_FIB_UNSPEC", "none"),
                ("NFTA_FIB_DREG", "regs"),
                ("NFTA_FIB_RESULT", "be32"),
                ("NFTA_FIB_FLAGS", "be32"),
            )


class _Elements(nftsocket.nft_set_elem_list_msg):  # type: ignore[misc]
    """NEWSETELEM with the interval-end flag as a plain number; pyroute2 0.9.7 cannot name it."""

    class set_elem(nftsocket.nft_set_elem_list_msg.set_elem):  # type: ignore[misc]  # noqa: N801
        nla_map = tuple(
            (name, "be32" if name == "NFTA_SET_ELEM_FLAGS" else kind)
            for name, kind in nftsocket.nft_set_elem_list_msg.set_elem.nla_map
        )


_NFTABLES_CLASSES = {
    nftsocket.NFT_MSG_NEWTABLE: _Table,
    nftsocket.NFT_MSG_GETTABLE: _Table,
    nftsocket.NFT_MSG_DELTABLE: _Table,
    nftsocket.NFT_MSG_NEWCHAIN: nftsocket.nft_chain_msg,
    nftsocket.NFT_MSG_DELCHAIN: nftsocket.nft_chain_msg,
    nftsocket.NFT_MSG_NEWRULE: _Rule,
    nftsocket.NFT_MSG_DELRULE: _Rule,
    nftsocket.NFT_MSG_NEWSET: nftsocket.nft_set_msg,
    nftsocket.NFT_MSG_DELSET: nftsocket.nft_set_msg,
    nftsocket.NFT_MSG_NEWSETELEM: _Elements,
    nftsocket.NFT_MSG_DELSETELEM: _Elements,
}

NEWTABLE: int = nftsocket.NFT_MSG_NEWTABLE
GETTABLE: int = nftsocket.NFT_MSG_GETTABLE
DELTABLE: int = nftsocket.NFT_MSG_DELTABLE
NEWCHAIN: int = nftsocket.NFT_MSG_NEWCHAIN
DELCHAIN: int = nftsocket.NFT_MSG_DELCHAIN
NEWRULE: int = nftsocket.NFT_MSG_NEWRULE
DELRULE: int = nftsocket.NFT_MSG_DELRULE
NEWSET: int = nftsocket.NFT_MSG_NEWSET
DELSET: int = nftsocket.NFT_MSG_DELSET
NEWSETELEM: int = nftsocket.NFT_MSG_NEWSETELEM
DELSETELEM: int = nftsocket.NFT_MSG_DELSETELEM

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26


@dataclass(frozen=True)
class Message:
    """One netlink request, not yet encoded; `label` names it in an error."""

    kind: int  # the message type as it stands in the netlink header
    flags: int
    fields: dict[str, int]
    attributes: Attributes
    label: str

    def encode(self, sequence: int) -> bytes:
        """The request as bytes."""
        subsystem, kind = divmod(self.kind, 256)
        if subsystem == SUBSYSTEM_NFTABLES:
            message: Any = _NFTABLES_CLASSES[kind]()
        elif self.kind in {BATCH_BEGIN, BATCH_END}:
            message = nfgen_msg()
        else:
            message = rtmsg()
        for name, value in self.fields.items():
            message[name] = value
        message["attrs"] = self.attributes
        message["header"]["type"] = self.kind
        message["header"]["flags"] = self.flags | NLM_F_REQUEST
        message["header"]["sequence_number"] = sequence
        message.encode()
        return bytes(message.data)


def nftables(kind: int, attributes: Attributes, label: str, flags: int = 0) -> Message:
    """A message about something in an `inet` table."""
    return Message(SUBSYSTEM_NFTABLES * 256 + kind, flags, {"nfgen_family": NFPROTO_INET}, attributes, label)


def batch_edge(kind: int) -> Message:
    """What opens and what closes a transaction."""
    return Message(kind, 0, {"res_id": SUBSYSTEM_NFTABLES}, [], "transaction")


def decode_table(data: bytes) -> dict[str, Any]:
    """The attributes of one NEWTABLE reply, by name."""
    message = _Table(data)
    message.decode()
    return dict(message["attrs"])


def decode_route(data: bytes) -> tuple[dict[str, int], dict[str, Any]]:
    """The fixed fields and the attributes of one NEWROUTE message, by name."""
    message = rtmsg(data)
    message.decode()
    return {name: message[name] for name in ("family", "dst_len", "proto", "type", "table")}, dict(
        message["attrs"]
    )
