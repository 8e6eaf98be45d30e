"""Which addresses an edge may claim, which nobody should dial unasked, and how both are written.

An address is the edge's own claim, whoever relays it; the server will capture the traffic of whatever is
accepted here, so the rule is narrow. Standard library only.
"""

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from certs.identity import check_name

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

MAX_ADDRESSES = 16
"""Addresses that one node may hold."""

DEFAULT_EDGE_NETWORKS: tuple[IPNetwork, ...] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("100.64.0.0/10"),
    IPv6Network("fc00::/7"),
)
"""Private and carrier-grade NAT ranges (RFC 1918, RFC 6598, RFC 4193)."""

SPECIAL_ADDRESSES: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ip_network(network), text)
    for network, text in (
        ("169.254.169.254/32", "a cloud metadata service"),
        ("fd00:ec2::254/128", "a cloud metadata service"),  # Amazon EC2
        ("fd00:ec2::23/128", "a cloud metadata service"),  # Amazon EKS Pod Identity
        ("fd20:ce::254/128", "a cloud metadata service"),  # Google Compute Engine
        ("fd00:42::42/128", "a cloud metadata service"),  # Scaleway
        ("100.100.100.200/32", "a cloud metadata service"),
        ("168.63.129.16/32", "a cloud metadata service"),
        ("192.0.0.192/32", "a cloud metadata service"),
        ("127.0.0.0/8", "a loopback address"),
        ("::1/128", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("fe80::/10", "a link-local address"),
    )
)
"""Dialled for others only where a rule names the range itself; the text says what such an address is."""
_NEVER_DIALLED: tuple[IPNetwork, ...] = tuple(
    ip_network(network)
    for network in ("0.0.0.0/8", "::/128", "224.0.0.0/4", "ff00::/8", "255.255.255.255/32")
)
"""No rule opens these: none is an address of one machine, and Linux takes 0.0.0.0 and :: for its loopback."""


def unmapped(address: IPAddress) -> IPAddress:
    """Return the IPv4 address in an IPv4-mapped IPv6 one (RFC 4291, 2.5.5.2), else the address."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


_IPV4_AT_THE_END: tuple[IPv6Network, ...] = tuple(
    IPv6Network(network)
    for network in (
        "::/96",  # IPv4-compatible (RFC 4291, 2.5.5.1)
        "::ffff:0:0/96",  # IPv4-mapped (2.5.5.2)
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765, 2.1)
        "64:ff9b::/96",  # NAT64 (RFC 6052, 2.1)
    )
)
_SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
"""RFC 8215; of which prefix lengths (RFC 6052, 2.2), only its operator knows."""


def embedded_ipv4(address: IPAddress) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a translator or a tunnel may take an IPv6 address for.

    None of them is in 0.0.0.0/8, as `::1` would seem to be.
    """
    if not isinstance(address, IPv6Address):
        return ()
    bits = int(address)
    found: list[int] = []
    if any(address in network for network in _IPV4_AT_THE_END):
        found = [bits]
    elif address in _LOCAL_NAT64:
        # Bits 64 to 71 are between the two parts of what begins before them.
        joined = bits >> 64 << 56 | bits & (1 << 56) - 1
        found = [joined >> 40, joined >> 32, joined >> 24, bits]
    elif address.sixtofour is not None:  # RFC 3056, 2
        found = [int(address.sixtofour)]
    elif address.teredo is not None:  # RFC 4380, 4
        found = [int(address.teredo[1])]
    low = (IPv4Address(each & 0xFFFF_FFFF) for each in found)
    return tuple(each for each in low if each.packed[0])


def never_dialled(address: IPAddress) -> str | None:
    """Return why no rule lets anybody dial `address`, or None if one may.

    A special IPv4 address in IPv6 form is among these: whoever may dial it writes it as it is.
    """
    if any(address in network for network in _NEVER_DIALLED):
        return f"{address} is not the address of one machine"
    for inner in embedded_ipv4(address):
        if any(inner in network for network in _NEVER_DIALLED):
            return f"{address} stands for {inner}, which is not the address of one machine"
        for network, text in SPECIAL_ADDRESSES:
            if inner in network:
                return f"{address} stands for {inner}, {text}"
    return None


def parse_address(text: str) -> IPAddress:
    """Read one address; `str()` of the result is its canonical form. Raises ValueError."""
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            raise ValueError(f"{text!r} has a zone: it means something on one machine only")
        if address.ipv4_mapped is not None:
            # One machine, two spellings: whoever compares addresses would see two.
            raise ValueError(f"{text!r} is IPv4 in IPv6 form: write {address.ipv4_mapped}")
    return address


def check_edge_address(address: IPAddress, networks: Iterable[IPNetwork]) -> None:
    """Raise ValueError, with the reason, unless an edge may hold `address`.

    Says nothing about the host this runs on: see `is_own_address`.
    """
    why = None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        why = "IPv4 in IPv6 form"
    elif address.is_loopback:
        why = "a loopback address"
    elif address.is_link_local:
        why = "a link-local address"
    elif address.is_multicast:
        why = "a multicast address"
    elif address.is_unspecified:
        why = "the unspecified address"
    elif address == IPv4Address("255.255.255.255"):
        why = "the broadcast address"
    if why is not None:
        raise ValueError(f"{address} is {why}: no edge can be reached by it")
    known = tuple(networks)
    if not any(address in network for network in known):
        listed = ", ".join(map(str, known)) or "none"
        raise ValueError(
            f"{address} is outside the edge networks ({listed}): "
            "name its network in edge-networks of the server's configuration"
        )


def is_own_address(address: IPAddress) -> bool:
    """Whether this host itself has `address`, in the network namespace of the calling thread.

    The kernel sends from `address` towards it only when it is local. Raises OSError as below.
    """
    return source_towards(address) == address


def source_towards(address: IPAddress) -> IPAddress | None:
    """The address that this host sends from towards `address`; None without a route, or such a family.

    A UDP connect asks the kernel, and sends nothing. Raises OSError if that takes more than there is
    (descriptors, memory): then nothing is known.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            probe.connect((str(address), 9))
            return ip_address(str(probe.getsockname()[0]))
    except OSError as error:
        if error.errno in _SHORTAGES:
            raise
        return None


def parse_endpoint(text: str, default_port: int, *, final_dot: bool = False) -> tuple[str, int]:
    """Read `HOST`, `HOST:PORT`, `ADDRESS:PORT`, `[IPV6]:PORT` or a bare IPv6 address; raises ValueError.

    With `final_dot`, a name may end in that of the root (RFC 1034, 3.1), and keeps it: a resolver heeds it.
    """
    host = text.strip()
    if host.startswith("["):
        host, bracket, rest = host[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an endpoint: write [IPV6]:PORT")
        return str(parse_address(host)), _port(rest[1:], text) if rest else default_port
    if host.count(":") > 1:
        try:
            ip_address(host)
        except ValueError:
            raise _no_endpoint(text) from None
        return str(parse_address(host)), default_port
    host, separator, port = host.partition(":")
    number = _port(port, text) if separator else default_port
    try:
        return str(parse_address(host)), number
    except ValueError:
        pass
    host = host.lower()
    name = host.removesuffix(".") if final_dot else host
    try:
        check_name(name)
    except ValueError:
        raise _no_endpoint(text) from None
    if name.rsplit(".", 1)[-1].isdigit():
        raise ValueError(f"{text!r} is neither a host name nor a valid address")
    return host, number


def format_endpoint(host: str, port: int) -> str:
    """The inverse of `parse_endpoint`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _no_endpoint(text: str) -> ValueError:
    return ValueError(f"{text!r} is not an endpoint: write HOST:PORT, ADDRESS:PORT or [IPV6]:PORT")


def _port(text: str, whole: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:6]) < 65536:
        raise ValueError(f"{whole!r} has no valid port: 1 to 65535")
    return int(text)
