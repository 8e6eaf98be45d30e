"""Whose table is it: a living server's, or what a dead one left behind.

Where the kernel has the owner flag it says itself. Elsewhere the table's comment names the netlink port of
its maker, and the kernel's list of netlink sockets says whether that still exists.
"""

from __future__ import annotations

import errno
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptUnavailable, MissingPrivilege
from tunnel_server.intercept.messages import decode_table
from tunnel_server.intercept.netlink import NETLINK_NETFILTER, NetlinkError, NetlinkSocket

REMEDY = "or set `intercept = false` and use `listen = [...]`, which needs no privilege"
# The list of this thread's network namespace, not of the process's first thread.
_SOCKETS = Path("/proc/thread-self/net/netlink")


@dataclass(frozen=True)
class FoundTable:
    """The table as it stands in the kernel."""

    handle: int
    owner: int | None
    """Netlink port of its owner, living or not; None where nobody is named."""
    owned: bool
    """The kernel guards it for the owner, who is therefore alive."""

    def is_in_use(self) -> bool:
        """A living process holds it."""
        return self.owned or (self.owner is not None and _inode(self.owner) is not None)

    def describe_owner(self) -> str:
        """Who holds it, as closely as can be seen from here."""
        inode = None if self.owner is None else _inode(self.owner)
        process = None if inode is None else _process(inode)
        return process or f"a process that is not visible from here, netlink port {self.owner}"


def find_table(netfilter: NetlinkSocket) -> FoundTable | None:
    """The table, or None where there is none. Raises InterceptUnavailable without privilege or nftables."""
    try:
        (reply,) = netfilter.request(table.get())
    except NetlinkError as error:
        if error.errno == errno.ENOENT:
            return None
        raise unavailable(error) from error
    attributes = decode_table(reply)
    owner = attributes.get("NFTA_TABLE_OWNER")
    named = re.fullmatch(r".*netlink port (\d+)", str(attributes.get("NFTA_TABLE_USERDATA", "")))
    comment_owner = int(named[1]) if named else None
    return FoundTable(
        attributes["NFTA_TABLE_HANDLE"], comment_owner if owner is None else owner, owned=owner is not None
    )


def unavailable(error: OSError) -> InterceptUnavailable:
    """The one line for a refusal by the kernel."""
    if error.errno in {errno.EPERM, errno.EACCES}:
        return MissingPrivilege(
            "transparent interception needs the privilege to change nftables (CAP_NET_ADMIN): "
            f"run tunnel-server as root, {REMEDY}"
        )
    what = error.label if isinstance(error, NetlinkError) else "netlink socket"
    return InterceptUnavailable(
        f"transparent interception is not possible with this kernel ({what}: {error.strerror}): it "
        f"needs nftables with the modules nf_tables, nft_fib_inet, nft_redir and nft_nat "
        f"(Linux 5.2 or newer), {REMEDY}"
    )


def in_use(found: FoundTable) -> InterceptUnavailable:
    """The one line for a second server."""
    return InterceptUnavailable(
        f"the nftables table `inet {table.NAME}` belongs to {found.describe_owner()}: one host "
        f"(network namespace) has one server that intercepts; stop that one, {REMEDY}"
    )


def _inode(port: int) -> str | None:
    """Inode of the netfilter netlink socket bound to `port` in this network namespace."""
    for line in _SOCKETS.read_text().splitlines()[1:]:
        _address, protocol, bound, *_rest, inode = line.split()
        if (int(protocol), int(bound)) == (NETLINK_NETFILTER, port):
            return inode
    return None


def _process(inode: str) -> str | None:
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # it ended meanwhile, or is not ours to look at
            if any(str(link.readlink()) == f"socket:[{inode}]" for link in descriptors.iterdir()):
                command = (
                    (descriptors.parent / "cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode(errors="replace")
                )
                return f"process {descriptors.parent.name} ({command.strip()[:80]})"
    return None
