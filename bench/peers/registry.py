"""Every peer of the suite, in the order of the tables. A new file in this folder is named here."""

import importlib
from collections.abc import Sequence

from bench.peers.peer import Peer

# Each module has PEERS: one entry for each configuration worth a row.
MODULES = (
    *("direct", "blocking_relay", "tunnel"),
    *("ssh", "stunnel", "haproxy", "rathole", "asyncssh", "frp", "chisel", "konnectivity", "bore"),
)


def peers() -> Sequence[Peer]:
    """One object for each configuration."""
    return [peer for name in MODULES for peer in importlib.import_module(f"bench.peers.{name}").PEERS]
