"""Who is at the other end of a TLS connection to the public port, once and for all who ask.

The handshake there leaves the clock out (see `tunnel_server.identity`): so what a certificate's times mean is
said here, and nobody else reads a peer's certificate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certs.identity import Identity
from certs.validity import Validity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnel_wire.tls import TlsPump


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end of one connection; `Request.peer` of the HTTPS API."""

    address: tuple[str, int]
    certificate: Mapping[str, object] | None = None
    """In `getpeercert` form, verified but for its times; None without one."""
    der: bytes = b""

    @classmethod
    def of(cls, pump: TlsPump, address: tuple[str, int]) -> Peer:
        """Read the peer of a finished handshake."""
        return cls(address, pump.peer_certificate or None, pump.peer_certificate_der or b"")

    @property
    def identity(self) -> Identity:
        """Whom the certificate is for; raises ValueError without one that says so."""
        return Identity.from_peer_certificate(self.certificate)

    def time_problem(self, now: float | None = None) -> str | None:
        """Say why this host's clock refuses the certificate, with both times; None if it does not."""
        if self.certificate is None:
            return None
        problem = Validity.from_peer_certificate(self.certificate).problem(
            time.time() if now is None else now
        )
        if problem is None:
            return None
        return f"the certificate of {self.identity.name} {problem}"
