"""The IP addresses that this machine has right now, asked of the kernel.

Asked by RTM_GETADDR (rtnetlink(7)) and not by trying to bind(): with `net.ipv4.ip_nonlocal_bind` set, as
keepalived and HAProxy installations do, every bind succeeds, and an agent that asked so would take a
neighbour's address for its own. Nor does bind tell an IPv6 address whose duplicate detection failed, which
is precisely somebody else's. psutil or pyroute2 would answer too, for 2 to 20 MiB of a small machine's
memory.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from certs.addresses import IPAddress


_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_F_DADFAILED, _IFA_F_TENTATIVE = 0x08, 0x40
_NOBODYS = "kube-ipvs0"
"""kube-proxy, in IPVS mode, gives every Service's address to this interface."""
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type


def machine_addresses() -> frozenset[IPAddress]:
    """Ask the kernel for every usable address of this network namespace, loopback included.

    Left out are those of a cluster's Services, which are on each of its machines, and no machine's own.

    Takes tens of microseconds and never waits for anybody outside the kernel. OSError where netlink is
    forbidden (a systemd unit needs AF_NETLINK in RestrictAddressFamilies).
    """
    found: set[IPAddress] = set()
    try:
        nobodys = socket.if_nametoindex(_NOBODYS)
    except OSError:
        nobodys = 0  # is no interface's
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as sock:
        sock.settimeout(1.0)
        request = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        sock.send(
            _HEADER.pack(_HEADER.size + len(request), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + request
        )
        while True:
            # A dump message is never larger than this: the kernel sizes it by the reader's buffer, 32 KiB
            # at most.
            for kind, payload in _messages(sock.recv(65536)):
                if kind == _NLMSG_DONE:
                    return frozenset(found)
                if kind == _NLMSG_ERROR:
                    raise OSError(
                        -struct.unpack_from("=i", payload)[0], "the kernel would not list its addresses"
                    )
                if kind == _RTM_NEWADDR and (address := _address(payload, nobodys)) is not None:
                    found.add(address)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, offset)
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (max(length, _HEADER.size) + 3) & ~3


def _address(payload: bytes, nobodys: int) -> IPAddress | None:
    family, _prefix, flags, _scope, interface = _IFADDRMSG.unpack_from(payload)
    if interface == nobodys:
        return None
    attributes: dict[int, bytes] = {}
    offset = _IFADDRMSG.size
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        attributes[kind] = payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (max(length, _ATTRIBUTE.size) + 3) & ~3
    if _IFA_FLAGS in attributes:
        (flags,) = struct.unpack("=I", attributes[_IFA_FLAGS])
    # On a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL, where there is one, is ours.
    raw = attributes.get(_IFA_LOCAL, attributes.get(_IFA_ADDRESS))
    if raw is None or flags & (_IFA_F_DADFAILED | _IFA_F_TENTATIVE):
        return None
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(raw)
    return ipaddress.IPv6Address(raw) if family == socket.AF_INET6 else None


class OwnAddresses:
    """`machine_addresses`, remembered for `keep` seconds, so that a burst of streams asks once."""

    def __init__(
        self,
        keep: float = 1.0,
        read: Callable[[], frozenset[IPAddress]] = machine_addresses,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._read = read
        self._clock = clock
        self._known: frozenset[IPAddress] = frozenset()
        self._known_until: float | None = None

    def has(self, address: IPAddress) -> bool:
        """Whether the machine has this address, or had it `keep` seconds ago; OSError as above."""
        return address in self.all()

    def knows(self, address: IPAddress) -> bool:
        """The same; False if the kernel does not say."""
        try:
            return self.has(address)
        except OSError:
            return False

    def all(self) -> frozenset[IPAddress]:
        """Return all that it has, or had `keep` seconds ago; OSError as above."""
        now = self._clock()
        if self._known_until is None or now >= self._known_until:
            self._known = self._read()
            self._known_until = now + self._keep
        return self._known
