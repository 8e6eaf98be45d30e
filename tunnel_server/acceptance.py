"""Whether a certificate is accepted now, and ending what is connected with one that no longer is.

An acceptance ends with the certificate's time, with a revocation, with the Node that it was attested for, and
with the trust in the root that signed it. `look` is called twice a second (`tunnel_server.identity`).
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from cryptography import x509

from certs.attested import is_attested
from certs.identity import Identity
from certs.validity import Validity
from tunnel_server.node_lives import NodeLives
from tunnel_wire.hello import DrainReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from certs.authority import Authority
    from tunnel_server.peers import Peer
    from tunnel_server.revocation import Revocations

log = logging.getLogger(__name__)

_ROLL_GRACE = 10.0
"""Seconds from the end of a root to the end of what it vouched for: an agent that has its new certificate may
be about to link with it, and a link beside it keeps the old one.
"""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a certificate is not accepted."""

    reason: DrainReason
    """As an agent is told."""
    why: str
    """One line, which names whose certificate it is."""


@dataclass(eq=False, slots=True)
class Watched:
    """One connection's certificate, read once."""

    peer: Peer
    identity: Identity
    serial: str
    validity: Validity
    attested: bool
    root: str
    """Fingerprint of the root that signed it; empty if that is trusted no longer."""
    end: Callable[[Ending], None]
    vouched: Callable[[], bool]
    ended: bool = False
    """`end` was called."""


class Acceptance:
    """What is accepted by the revocations and the roots of this moment, and by this host's clock."""

    def __init__(self, revocations: Revocations, authority: Authority) -> None:
        self.revocations = revocations
        self._authority = authority
        self._roots = frozenset(authority.fingerprints)
        self._rolled = -math.inf
        self.lives = NodeLives()
        self.lives.on_change = lambda: self.look(changed=True)
        self.on_change: list[Callable[[], None]] = []
        """Called in trio's thread when others are accepted than before, after those that are watched."""
        self._watched: dict[Watched, None] = {}
        self._next = math.inf
        """When the first of those that are watched expires, in seconds since the epoch."""
        self._pending = False
        """Whether somebody is left only for now."""

    def refusal(self, peer: Peer) -> Ending | None:
        """Why a certificate, which the handshake has verified, is not accepted; raises ValueError."""
        if problem := peer.time_problem():
            return Ending(DrainReason.EXPIRED, problem)
        assert peer.certificate is not None
        why = self.revocations.check_certificate(peer.certificate) or self.outlived(peer.certificate)
        return None if why is None else Ending(DrainReason.REVOKED, why)

    def outlived(self, certificate: Mapping[str, object]) -> str | None:
        """Why the Node that a verified certificate was attested for is not there; None for all others."""
        if not is_attested(certificate):
            return None
        name = Identity.from_peer_certificate(certificate).name
        return self.lives.ended(name, Validity.from_peer_certificate(certificate).issued)

    @contextmanager
    def watch(
        self, peer: Peer, end: Callable[[Ending], None], vouched: Callable[[], bool] = lambda: False
    ) -> Iterator[Watched]:
        """Inside, `end` is called once if the certificate stops being accepted, in trio's thread: no waiting.

        It is called at once if that has happened since whoever asks has looked. While `vouched()` says that
        somebody with an accepted certificate stands up for this one, it outlives its root. Raises ValueError.
        """
        assert peer.certificate is not None
        watched = Watched(
            peer,
            peer.identity,
            str(peer.certificate["serialNumber"]),
            Validity.from_peer_certificate(peer.certificate),
            is_attested(peer.certificate),
            self._authority.issuer_of(x509.load_der_x509_certificate(peer.der)),
            end,
            vouched,
        )
        self._watched[watched] = None
        self._next = min(self._next, watched.validity.not_after)
        self._settle(watched)
        try:
            yield watched
        finally:
            self._watched.pop(watched, None)

    def accepts(self, watched: Watched) -> bool:
        """Whether this certificate is accepted by itself."""
        return watched.root in self._roots and self._time_or_revocation(watched) is None

    def revocation(self, watched: Watched) -> str | None:
        """Why a certificate is revoked, in force or expired; None if it is not."""
        issued = watched.validity.issued
        why = self.revocations.check(watched.identity, watched.serial, issued)
        if why is None and watched.attested:
            why = self.lives.ended(watched.identity.name, issued)
        return why

    def change_authority(self, authority: Authority) -> None:
        """Trust these roots from now on. What another one signed is ended after a short while."""
        roots = frozenset(authority.fingerprints)
        if not self._roots <= roots:
            self._rolled = trio.current_time()
        self._authority, self._roots = authority, roots
        self.look(changed=True)

    def look(self, *, changed: bool = False) -> None:
        """End what is not accepted any more. Cheap while nothing has expired, nor `changed`."""
        if not changed and not self._pending and time.time() < self._next:
            return
        self._pending = False
        for watched in list(self._watched):
            # Whoever was told before may have ended this one too.
            if watched in self._watched:
                self._settle(watched)
        self._next = min((each.validity.not_after for each in self._watched), default=math.inf)
        if changed:
            for told in self.on_change:
                told()

    def _settle(self, watched: Watched) -> None:
        ending = self._time_or_revocation(watched)
        if ending is None and watched.root not in self._roots:
            if trio.current_time() < self._rolled + _ROLL_GRACE or watched.vouched():
                self._pending = True
            else:
                why = f"the certificate of {watched.identity.name} is of a root that is trusted no longer"
                ending = Ending(DrainReason.REPLACED, why)
        if ending is not None:
            del self._watched[watched]
            watched.ended = True
            log.warning("a live connection ends: %s", ending.why)
            watched.end(ending)

    def _time_or_revocation(self, watched: Watched) -> Ending | None:
        now = time.time()
        if now >= watched.validity.not_after:
            return Ending(DrainReason.EXPIRED, watched.peer.time_problem(now) or "")
        why = self.revocation(watched)
        return None if why is None else Ending(DrainReason.REVOKED, why)
