"""Who listens on a port already, as far as this process may see it, by /proc."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROC = Path("/proc")
_LISTENING = "0A"


def why_taken(host: str, port: int, setting: str) -> str:
    """Return who has `port` where a listener on the address `host` needs it, and what to do."""
    found = _in_the_way(host, port)
    # With others, it was handed down to us for somebody else.
    if found is not None and list(_holders(found.inode)) == [os.getpid()]:
        return f"this program has the port already, for another setting; set another {setting}"
    owner = find_owner(host, port)
    return f"another program has the port{owner and f', {owner}'}; stop it, or set another {setting}"


def find_owner(host: str, port: int) -> str:
    """Return the process that has `port` where a listener on the address `host` would need it; "" for nobody.

    It is named only if it is in this one's view of /proc, and this one may look into it; else its user is,
    and what names it. It takes milliseconds, more with many processes.
    """
    found = _in_the_way(host, port)
    if found is None:
        return ""
    holders = list(_holders(found.inode))
    if not holders:
        return f"one of user {found.user}: `ss -ltnp 'sport = {port}'`, as root on this host, names it"
    others = [each for each in holders if each != os.getpid()]
    process = (others or holders)[0]
    return f"{_name(process)} (process {process})"


@dataclass(frozen=True, slots=True)
class _Socket:
    """One that listens: proc(5), /proc/net/tcp."""

    address: IPv4Address | IPv6Address
    user: str
    inode: str


def _in_the_way(host: str, port: int) -> _Socket | None:
    try:
        ours = ip_address(host)
    except ValueError:
        return None
    for each in _listening(port):
        theirs = each.address
        # One on "::" may take IPv4 as well, which /proc does not say; ours there never does.
        meets = theirs.version == ours.version or theirs == IPv6Address("::")
        if theirs == ours or (meets and (theirs.is_unspecified or ours.is_unspecified)):
            return each
    return None


def _listening(port: int) -> Iterator[_Socket]:
    for file in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (_PROC / "self" / "net" / file).read_text().splitlines()[1:]:
                fields = line.split()
                address, _, number = fields[1].partition(":")
                if fields[3] == _LISTENING and int(number, 16) == port:
                    yield _Socket(_address(address), fields[7], fields[9])


def _address(text: str) -> IPv4Address | IPv6Address:
    """Read words of 32 bits, each as this machine's memory has it."""
    raw = bytes.fromhex(text)
    if sys.byteorder == "little":
        raw = b"".join(raw[start : start + 4][::-1] for start in range(0, len(raw), 4))
    address = ip_address(raw)
    return getattr(address, "ipv4_mapped", None) or address


def _holders(inode: str) -> Iterator[int]:
    """Yield the processes that have the socket open."""
    for process in sorted(int(each.name) for each in _PROC.iterdir() if each.name.isdecimal()):
        with suppress(OSError):  # it has ended, or is not ours to look into
            if any(_is_socket(descriptor, inode) for descriptor in (_PROC / str(process) / "fd").iterdir()):
                yield process


def _is_socket(descriptor: Path, inode: str) -> bool:
    try:
        return os.readlink(descriptor) == f"socket:[{inode}]"  # noqa: PTH115 -- no path
    except OSError:
        return False


def _name(process: int) -> str:
    try:
        text = (_PROC / str(process) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "unnamed"
    return "".join(each if each.isprintable() else "?" for each in text)
