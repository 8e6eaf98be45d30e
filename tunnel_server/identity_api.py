"""The part of the HTTPS API for those who have a certificate: `POST /v1/identity` and `POST /v1/renew`.

The client certificate of the connection is the only evidence. `identity` is asked every now and then: the
node says which roots it trusts, and hears the current bundle, the servers' addresses, and whether to renew
at once. `renew` exchanges a request over a new key for a certificate of the same name and addresses. Refusals
are `{"error": {"code": ..., "message": ...}}`, as of the join API.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from certs.files import StateError, StateUnavailableError
from certs.fingerprints import MAX_ROOTS, is_fingerprint
from certs.identity import Role
from certs.renewal import RevokedError
from certs.requests import MAX_REQUEST, RequestError
from tunnel_daemon.http1 import HttpError, Request, Response
from tunnel_server.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from certs.identity import Identity
    from certs.renewal import Renewals
    from tunnel_daemon.http1 import Handler
    from tunnel_server.revocation import Revocations

log = logging.getLogger(__name__)

THREADS = 2
"""Requests worked on at once: each holds a thread, for files and cryptography."""
RENEWALS = 5
"""Renewals that one identity gets at once ..."""
SECONDS_PER_RENEWAL = 60.0
"""... and until it gets one more: each is written to disk."""
MAX_REMEMBERED = 20_000


class IdentityApi:
    """Answers nodes and callers; `routes` are for a `tunnel_daemon.router.Router`."""

    def __init__(
        self,
        renewals: Renewals,
        revocations: Revocations,
        *,
        servers: Callable[[], Sequence[str]],
        outlived: Callable[[Mapping[str, object]], str | None] = lambda _certificate: None,
    ) -> None:
        """Take what answers: `servers` returns `HOST:PORT` of each server that agents may dial.

        `outlived` says why the Node that a certificate was attested for is not there any more.
        """
        self._outlived = outlived
        self._renewals = renewals
        self._revocations = revocations
        self._servers = servers
        self._threads = trio.CapacityLimiter(THREADS)
        self._renewed: OrderedDict[Identity, tuple[float, float]] = OrderedDict()  # left, at which time
        self.routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/identity"): self._identity,
            ("POST", "/v1/renew"): self._renew,
        }

    async def _identity(self, request: Request) -> Response:
        peer, _, refusal = self._who(request)
        if refusal is not None:
            return refusal
        document = _document(request)
        roots = document.get("roots", [])
        if not isinstance(roots, list) or len(roots) > MAX_ROOTS:
            return _error(400, "bad-request", f'"roots" must be a list of at most {MAX_ROOTS}')
        if not all(isinstance(root, str) and is_fingerprint(root) for root in roots):
            return _error(400, "bad-request", '"roots" must be SHA-256 fingerprints, in hexadecimal')
        try:
            renew = await trio.to_thread.run_sync(
                self._renewals.seen, peer.der, tuple(roots), limiter=self._threads
            )
        except StateError as error:
            return _state_failed(error)
        return Response.json({**self._current(), "renew": renew})

    async def _renew(self, request: Request) -> Response:
        peer, identity, refusal = self._who(request)
        if refusal is not None or identity is None:
            return refusal or _error(401, "no-certificate", "")
        csr = _document(request).get("csr")
        if not isinstance(csr, str) or len(csr) > MAX_REQUEST:
            return _error(400, "bad-request", f'"csr" must be a string of at most {MAX_REQUEST} characters')
        wait = self._pace(identity, trio.current_time())
        if wait > 0:
            return _error(429, "too-many-renewals", f"{identity} renews too often: again in {wait:.0f} s")
        try:
            renewed = await trio.to_thread.run_sync(
                self._renewals.renew, peer.der, csr.encode(errors="replace"), limiter=self._threads
            )
        except RequestError as error:
            return _error(400, "bad-certificate-request", str(error))
        except RevokedError as error:
            return _error(403, "revoked", str(error))
        except StateError as error:
            return _state_failed(error)
        log.info("%s has a new certificate", identity)
        return Response.json({
            **self._current(),
            "name": identity.name,
            "addresses": [str(address) for address in renewed.addresses],
            "certificate": renewed.certificate,
            "ca": renewed.ca,
        })  # fmt: skip

    def _current(self) -> dict[str, object]:
        return {"ca": self._renewals.authority.pem, "servers": list(self._servers())}

    def _who(self, request: Request) -> tuple[Peer, Identity | None, Response | None]:
        """Return who asks, or why nobody is answered."""
        peer = request.peer
        assert isinstance(peer, Peer)
        if peer.certificate is None:
            message = "this takes a client certificate of the tunnel's authority, and none was shown"
            return peer, None, _error(401, "no-certificate", message)
        try:
            identity = peer.identity
        except ValueError as error:
            return peer, None, _error(403, "bad-certificate", str(error))
        code, why = "certificate-time", peer.time_problem()
        if why is None:
            certificate = peer.certificate
            code = "revoked"
            why = self._revocations.check_certificate(certificate) or self._outlived(certificate)
        if why is None and (
            identity.role is Role.SERVER or identity.domain != self._renewals.authority.domain
        ):
            code, why = "wrong-role", f"{identity} is no node and no caller of this server"
        if why is not None:
            log.warning("a request from %s was refused: %s", peer.address[0], why)
            return peer, identity, _error(403, code, why)
        return peer, identity, None

    def _pace(self, identity: Identity, now: float) -> float:
        """Count one renewal at `now`; return 0, or the seconds until one would be in bounds."""
        left, then = self._renewed.pop(identity, (float(RENEWALS), now))
        left = min(RENEWALS, left + (now - then) / SECONDS_PER_RENEWAL)
        wait = 0.0 if left >= 1 else (1 - left) * SECONDS_PER_RENEWAL
        self._renewed[identity] = (left - 1 if left >= 1 else left, now)
        if len(self._renewed) > MAX_REMEMBERED:
            self._renewed.popitem(last=False)
        return wait


def _document(request: Request) -> dict[str, object]:
    try:
        document = request.json()
    except HttpError:
        return {}
    return document if isinstance(document, dict) else {}


def _state_failed(error: StateError) -> Response:
    if isinstance(error, StateUnavailableError):
        log.warning("a renewal is put off: %s", error)
        text = "the apiserver, where this server's state is, does not answer it; try again later"
        return _error(503, "server-state", text)
    log.error("a renewal failed: %s", error)
    return _error(503, "server-state", "the server cannot use its own state, see its log; try again later")


def _error(status: int, code: str, message: str) -> Response:
    return Response.json({"error": {"code": code, "message": message}}, status)
