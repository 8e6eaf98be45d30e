"""Makes the network namespace it is run in a factory's router: masquerade outwards, nothing inwards.

Run as `python nat.py WAN LAN` in that namespace. It speaks netlink to nftables by itself, so that the demo
needs nothing but the kernel and `ip` (the server's own table is tunnel_server.intercept's, with pyroute2).
Message layouts: linux/netfilter/nfnetlink.h and nf_tables.h.
"""

import errno
import os
import socket
import struct
import sys
from pathlib import Path

# nfnetlink messages and the nftables attributes used below, by their names in the headers
_BATCH_BEGIN, _BATCH_END, _NFTABLES = 16, 17, 10
_NEWTABLE, _NEWCHAIN, _NEWRULE = 0, 3, 6
_REQUEST, _ACK, _CREATE, _APPEND = 1, 4, 0x400, 0x800
_REG_VERDICT, _REG_1 = 0, 1
_META_IIFNAME, _META_OIFNAME, _CT_STATE = 6, 7, 0
_CMP_EQ, _CMP_NEQ = 0, 1
_DROP, _ACCEPT = 0, 1
_HOOK_FORWARD, _HOOK_POSTROUTING = 2, 4
_ESTABLISHED_OR_RELATED = 2 | 4
_NESTED = 0x8000


def _attribute(kind: int, payload: bytes) -> bytes:
    padding = -len(payload) % 4
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(padding)


def _nested(kind: int, *attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(attributes))


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return _attribute(kind, struct.pack("!i" if number < 0 else "!I", number))


def _expression(name: str, *attributes: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *attributes))


def _load_meta(key: int) -> bytes:
    return _expression("meta", _number(1, _REG_1), _number(2, key))


def _compare(operator: int, value: bytes) -> bytes:
    return _expression("cmp", _number(1, _REG_1), _number(2, operator), _nested(3, _attribute(1, value)))


def _interface_is(key: int, name: str) -> list[bytes]:
    return [_load_meta(key), _compare(_CMP_EQ, name.encode().ljust(16, b"\0"))]


def _accept() -> bytes:
    return _expression("immediate", _number(1, _REG_VERDICT), _nested(2, _nested(2, _number(1, _ACCEPT))))


def _established() -> list[bytes]:
    mask = struct.pack("=I", _ESTABLISHED_OR_RELATED)
    return [
        _expression("ct", _number(1, _REG_1), _number(2, _CT_STATE)),
        _expression(
            "bitwise",
            *(_number(1, _REG_1), _number(2, _REG_1), _number(3, 4)),
            _nested(4, _attribute(1, mask)),
            _nested(5, _attribute(1, bytes(4))),
        ),
        _compare(_CMP_NEQ, bytes(4)),
    ]


def _chain(table: str, name: str, kind: str, hook: int, priority: int, policy: int) -> bytes:
    hooked = _nested(4, _number(1, hook), _number(2, priority))
    return _text(1, table) + _text(3, name) + hooked + _number(5, policy) + _text(7, kind)


def _rule(table: str, chain: str, *expressions: bytes) -> bytes:
    return _text(1, table) + _text(2, chain) + _nested(4, *expressions)


def _message(kind: int, flags: int, sequence: int, family: int, resource: int, payload: bytes) -> bytes:
    body = struct.pack("!BBH", family, 0, resource) + payload
    return struct.pack("=IHHII", 16 + len(body), kind, _REQUEST | flags, sequence, 0) + body


def _commit(messages: list[tuple[int, bytes]]) -> None:
    """Apply all the messages in one transaction, or none; OSError says why not."""
    batch = _message(_BATCH_BEGIN, 0, 0, 0, _NFTABLES, b"")
    for sequence, (kind, payload) in enumerate(messages, 1):
        flags = _CREATE | _APPEND | _ACK
        batch += _message(_NFTABLES << 8 | kind, flags, sequence, socket.AF_INET, 0, payload)
    batch += _message(_BATCH_END, 0, len(messages) + 1, 0, _NFTABLES, b"")
    netfilter = 12  # NETLINK_NETFILTER
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netfilter) as netlink:
        netlink.settimeout(5)
        netlink.send(batch)
        answered = 0
        while answered < len(messages):
            answer = netlink.recv(65536)
            while answer:
                length, kind = struct.unpack_from("=IH", answer)
                if kind == 2:  # NLMSG_ERROR, which is also the acknowledgement
                    (code,) = struct.unpack_from("=i", answer, 16)
                    if code:
                        raise OSError(-code, f"nftables refused the router's rules: {os.strerror(-code)}")
                    answered += 1
                answer = answer[length + -length % 4 :]


def make_router(wan: str, lan: str) -> None:
    """Forward from `lan` outwards under the address of `wan`, and nothing that comes the other way first.

    Acts on the network namespace of this process. Raises OSError.
    """
    table = "router"
    _commit(
        [
            (_NEWTABLE, _text(1, table)),
            (_NEWCHAIN, _chain(table, "postrouting", "nat", _HOOK_POSTROUTING, 100, _ACCEPT)),
            (_NEWRULE, _rule(table, "postrouting", *_interface_is(_META_OIFNAME, wan), _expression("masq"))),
            (_NEWCHAIN, _chain(table, "forward", "filter", _HOOK_FORWARD, 0, _DROP)),
            (_NEWRULE, _rule(table, "forward", *_established(), _accept())),
            (_NEWRULE, _rule(table, "forward", *_interface_is(_META_IIFNAME, lan), _accept())),
        ]
    )
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1\n")


if __name__ == "__main__":
    try:
        make_router(sys.argv[1], sys.argv[2])
    except OSError as error:
        missing = error.errno in {errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT}
        sys.exit(f"{error}" + (" (is nf_tables, with masquerade, in this kernel?)" if missing else ""))
