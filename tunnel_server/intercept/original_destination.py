"""Where a captured connection was going.

Linux: SO_ORIGINAL_DST (linux/netfilter_ipv4.h) and IP6T_SO_ORIGINAL_DST (linux/netfilter_ipv6/ip6_tables.h),
both 80, at the IP and the IPv6 level.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

SO_ORIGINAL_DST = 80
_SOCKADDR_IN = struct.Struct("!2xH4s8x")
_SOCKADDR_IN6 = struct.Struct("!2xH4x16s4x")


def original_destination(sock: socket.socket) -> tuple[IPv4Address | IPv6Address, int] | None:
    """The address and port that the peer of this accepted connection dialled, if it was captured.

    None for a direct call: the kernel tracks no such connection, or says that it was for this very socket.
    Raises OSError if the socket itself has failed.
    """
    name = sock.getsockname()
    local: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    if sock.family == socket.AF_INET6:
        level, layout = socket.IPPROTO_IPV6, _SOCKADDR_IN6
        local = IPv6Address(name[0].partition("%")[0])
        if local.ipv4_mapped is not None:  # a dual-stack listener: the connection is tracked as IPv4
            level, layout, local = socket.IPPROTO_IP, _SOCKADDR_IN, local.ipv4_mapped
    else:
        level, layout = socket.IPPROTO_IP, _SOCKADDR_IN
        local = IPv4Address(name[0])
    try:
        answer = sock.getsockopt(level, SO_ORIGINAL_DST, layout.size)
    except OSError:  # ENOENT: not tracked; ENOPROTOOPT: this kernel tracks nothing
        return None
    port, packed = layout.unpack(answer)
    destination = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    return None if (destination, port) == (local, name[1]) else (destination, port)
