"""Which addresses have connections from this host: their routes must stay while these last.

A captured connection is still routed by the address that the caller dialled, packet by packet, so taking the
route away would strand it, although neither its address nor its port need be captured any more.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from tunnel_server.intercept.config import Address

# Of this thread's network namespace, not of the process's first thread (proc_pid_net(5)).
_TABLES = (Path("/proc/thread-self/net/tcp"), Path("/proc/thread-self/net/tcp6"))
_CARRYING = {
    "01",
    "04",
    "05",
    "08",
    "09",
    "0B",
}  # ESTABLISHED, FIN_WAIT1 and 2, CLOSE_WAIT, LAST_ACK, CLOSING


def connected_to(addresses: Collection[Address]) -> set[Address]:
    """Those of the addresses to which this network namespace has a TCP connection. Raises OSError."""
    if not addresses:
        return set()
    wanted = {spelling: address for address in addresses for spelling in _spellings(address)}
    found: set[Address] = set()
    for path in _TABLES:
        with suppress(FileNotFoundError), path.open() as lines:  # a kernel without IPv6
            next(lines)
            for line in lines:
                _number, _local, remote, state, _rest = line.split(maxsplit=4)
                address = wanted.get(remote.partition(":")[0])
                if address is not None and state in _CARRYING:
                    found.add(address)
    return found


def _spellings(address: Address) -> tuple[str, ...]:
    words = [
        f"{int.from_bytes(address.packed[start : start + 4], sys.byteorder):08X}"
        for start in range(0, len(address.packed), 4)
    ]
    whole = "".join(words)
    if address.version == 6:
        return (whole,)
    prefix = f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
    return whole, "0" * 16 + prefix + whole  # dialled from an IPv4 socket, and from an IPv6 one
