"""What lately became of agents' attempts to link, for `tunnelctl doctor`.

Nobody can log into an edge whose link is down: what this end saw of it is all there is to go by.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

HOSTS_KEPT = 256
"""Strangers' addresses remembered at once; who comes with a verified certificate does not count."""


class Alert(StrEnum):
    """What an agent that broke off a TLS handshake has against this server's certificate (RFC 8446, 6.2)."""

    BAD_CERTIFICATE = "bad-certificate"
    """OpenSSL's word for one that is not valid yet, and for one without the name that was dialled."""
    CERTIFICATE_EXPIRED = "certificate-expired"
    UNKNOWN_CA = "unknown-ca"


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """How a link ended, or why it was refused."""

    when: datetime
    host: str
    """The address that it came from: the agent's NAT's, usually."""
    reason: str


@dataclass(frozen=True, slots=True)
class BrokenHandshake:
    """A handshake that the other end broke off; nobody knows which node that was."""

    when: datetime
    host: str
    alert: Alert


class Attempts:
    """How each node's last link ended, and each address's last broken handshake. Nothing here waits."""

    def __init__(self) -> None:
        self._ends: dict[str, LinkEnd] = {}
        self._broken: OrderedDict[str, BrokenHandshake] = OrderedDict()

    def ended(self, node: str, host: str, reason: str) -> None:
        """A link with a certificate of `node` is over."""
        self._ends[node] = LinkEnd(datetime.now(UTC), host, reason)

    def handshake_failed(self, host: str, reason: str) -> None:
        """A handshake with `host` ended with OpenSSL's `reason`; only alerts about our certificate count."""
        alert = next((each for each in Alert if each.name in reason and "_ALERT_" in reason), None)
        if alert is None:
            return
        self._broken[host] = BrokenHandshake(datetime.now(UTC), host, alert)
        self._broken.move_to_end(host)
        if len(self._broken) > HOSTS_KEPT:
            self._broken.popitem(last=False)

    def last_end(self, node: str) -> LinkEnd | None:
        """How the node's last link ended; None if it had none since the server started."""
        return self._ends.get(node)

    def broken_since(self, end: LinkEnd | None) -> BrokenHandshake | None:
        """The last broken handshake that may be of the node whose last link ended so.

        Of the same address, and after that end. Of a node that was not here yet, it may come from anywhere.
        """
        if end is None:
            return next(reversed(self._broken.values()), None)
        broken = self._broken.get(end.host)
        return broken if broken is not None and broken.when > end.when else None
