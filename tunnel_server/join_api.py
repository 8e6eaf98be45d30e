"""The HTTPS API by which an edge joins: `GET /v1/ca` and `POST /v1/join`.

It is reached before there is any identity, by anybody. An edge shows a join token; an agent in a cluster, the
token of its ServiceAccount instead (`tunnel_server.attestor`). Whatever goes wrong is answered as
`{"error": {"code": ..., "message": ...}}`: the code for programs, the message for whoever ran the join line.
Failures are limited by source address. A right token is looked at first and never refused for them, because a
whole factory is one source.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import trio

from certs.enrolment import AddressRefusedError, Enrolled, Enrolment
from certs.files import StateError, StateUnavailableError
from certs.renewal import RevokedError
from certs.requests import MAX_REQUEST, RequestError
from certs.tokens import Refusal, TokenRefusedError
from tunnel_daemon.http1 import Handler, Request, Response
from tunnel_daemon.router import Router
from tunnel_server.attestor import AttestationRefusedError, AttestationUnavailableError
from tunnel_server.peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from certs.addresses import IPAddress
    from tunnel_server.attestor import Attestor

log = logging.getLogger(__name__)

_RETRY_AFTER = 5
"""Seconds after which an agent may ask again whom nobody can vouch for now."""
_STATUS = {Refusal.MALFORMED: 400, Refusal.USED: 409}  # the others are 403


@dataclass(frozen=True)
class JoinLimits:
    """Bounds on what strangers can make the server do."""

    failures: int = 10
    """Failed joins of one source that are answered in full before it is told to wait."""
    seconds_per_failure: float = 6.0
    """How long until one more is."""
    sources: int = 4096
    """Sources remembered; the one that failed longest ago is forgotten first."""
    threads: int = 2
    """Joins worked on at once: each holds a thread, for files and cryptography."""


class JoinApi:
    """Answers the requests of one server; `handle` is a `tunnel_daemon.http1.Handler`."""

    def __init__(
        self,
        enrolment: Enrolment,
        *,
        servers: Callable[[], Sequence[str]],
        on_issued: Callable[[str, tuple[IPAddress, ...]], None] = lambda _node, _addresses: None,
        on_ended: Callable[[str], None] = lambda _outcome: None,
        limits: JoinLimits | None = None,
        attestor: Attestor | None = None,
    ) -> None:
        """Take what answers: `servers` returns `HOST:PORT` of each server that agents may dial.

        `on_issued(node, addresses)` is called in trio's thread after each join with a join token; `on_ended`
        after each request to join, with "ok" or the code of its refusal. Without an `attestor`, only join
        tokens serve.
        """
        self._attestor = attestor
        self._limits = limits or JoinLimits()
        self.enrolment = enrolment
        """May be replaced at any time; what is known of failures stays."""
        self._on_ended = on_ended
        self._servers = servers
        self._on_issued = on_issued
        self._threads = trio.CapacityLimiter(self._limits.threads)
        self._failures = FailureLimiter(self._limits)
        self.routes: dict[tuple[str, str], Handler] = {
            ("GET", "/v1/ca"): self._ca,
            ("POST", "/v1/join"): self._join,
        }
        self._router = Router(self.routes)

    async def handle(self, request: Request) -> Response:
        """Answer one request; raises nothing of ours.

        Cancelled, a join that has begun is finished all the same: the agent asks again with the same key
        and is given the same certificate.
        """
        return await self._router(request)

    async def _ca(self, _request: Request) -> Response:
        return Response(200, self.enrolment.authority.pem.encode(), "application/x-pem-file")

    async def _join(self, request: Request) -> Response:
        try:
            asked = _asked(request)
            enrolled = await (self._attest(asked) if asked.attested else self._redeem(asked))
        except TokenRefusedError as error:
            return self._refuse(request, _STATUS.get(error.refusal, 403), error.refusal.value, str(error))
        except AttestationRefusedError as error:
            return self._refuse(request, 403, error.code, str(error))
        except RevokedError as error:
            return self._refuse(request, 403, "revoked", str(error))
        except AddressRefusedError as error:
            return self._refuse(request, 403, "address-not-allowed", str(error))
        except RequestError as error:
            return self._refuse(request, 400, "bad-certificate-request", str(error))
        except _BodyError as error:
            return self._refuse(request, 400, "bad-request", str(error))
        except AttestationUnavailableError as error:
            self._on_ended("unavailable")
            return _error(503, "unavailable", str(error), {"Retry-After": str(_RETRY_AFTER)})
        except StateUnavailableError as error:
            log.warning("a join is put off: %s", error)
            self._on_ended("server-state")
            message = "the apiserver, where this server's state is, does not answer it; the token stays good"
            return _error(503, "server-state", message, {"Retry-After": str(_RETRY_AFTER)})
        except StateError as error:
            log.error("a join failed, and its token stays good: %s", error)  # noqa: TRY400 - no traceback
            message = "the server cannot use its own state, see its log; the token stays good"
            self._on_ended("server-state")
            return _error(503, "server-state", message)
        self._on_ended("ok")
        return Response.json(self._answer(enrolled))

    async def _redeem(self, asked: _Asked) -> Enrolled:
        enrolled = await trio.to_thread.run_sync(
            self.enrolment.join, asked.token, asked.node, asked.csr, limiter=self._threads
        )
        self._on_issued(enrolled.node, enrolled.addresses)
        log.info("node %s joined from %s", enrolled.node, asked.source)
        return enrolled

    async def _attest(self, asked: _Asked) -> Enrolled:
        if self._attestor is None:
            text = "this server is no cluster's: it takes join tokens (`tunnelctl token create`), no others"
            raise AttestationRefusedError("not-attesting", text)
        suspect = self._failures.exhausted(asked.source, trio.current_time())
        attested = await self._attestor.attest(asked.token, suspect=suspect)
        if asked.node not in {None, attested.node}:
            text = f"{attested.evidence}, runs on {attested.node}, and asks for a certificate of {asked.node}"
            raise AttestationRefusedError("other-node", text)
        enrol = partial(self.enrolment.enrol, attested.node, asked.csr, after=attested.since)
        enrolled = await trio.to_thread.run_sync(enrol, limiter=self._threads)
        log.info("node %s is attested from %s: %s", enrolled.node, asked.source, attested.evidence)
        return enrolled

    def _answer(self, enrolled: Enrolled) -> dict[str, object]:
        return {
            "node": enrolled.node,
            "addresses": [str(address) for address in enrolled.addresses],
            "certificate": enrolled.certificate,
            "ca": enrolled.ca,
            "servers": list(self._servers()),
        }

    def _refuse(self, request: Request, status: int, code: str, message: str) -> Response:
        self._on_ended(code)
        source = source_of(request.peer)
        wait = self._failures.failed(source, trio.current_time())
        if wait > 0:
            message = f"too many failed joins from {source}: try again in {wait:.0f} s"
            return _error(429, "too-many-failures", message)
        log.warning("join refused from %s: %s", source, code)
        return _error(status, code, message)


class FailureLimiter:
    """A token bucket for each source of failures, and a bounded number of sources."""

    def __init__(self, limits: JoinLimits) -> None:
        self._limits = limits
        self._sources: OrderedDict[str, tuple[float, float]] = OrderedDict()  # failures left, at which time

    def exhausted(self, source: str, now: float) -> bool:
        """Whether one more failure of `source` at `now` would be out of bounds."""
        if source not in self._sources:
            return False
        left, then = self._sources[source]
        return left + (now - then) / self._limits.seconds_per_failure < 1

    def failed(self, source: str, now: float) -> float:
        """Count one failure at `now` (seconds); return 0, or the seconds until one would be in bounds."""
        left, then = self._sources.pop(source, (float(self._limits.failures), now))
        pace = self._limits.seconds_per_failure
        left = min(self._limits.failures, left + (now - then) / pace)
        wait = 0.0 if left >= 1 else (1 - left) * pace
        self._sources[source] = (left - 1 if left >= 1 else left, now)
        if len(self._sources) > self._limits.sources:
            self._sources.popitem(last=False)
        return wait


def source_of(peer: object) -> str:
    """Return what failures are counted by: the address of a socket's peer, an IPv6 one as its /64.

    Whoever has one IPv6 address usually has the other 2**64 of its network.
    """
    if isinstance(peer, Peer):
        peer = peer.address
    host = peer[0] if isinstance(peer, tuple) and peer else peer
    try:
        address = ip_address(str(host).partition("%")[0])
    except ValueError:
        return str(host)
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"
    return str(address)


class _BodyError(Exception):
    """The body is not what the route takes."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request to join, taken apart."""

    token: str = field(repr=False)
    attested: bool
    """It is a ServiceAccount's."""
    node: str | None
    csr: bytes
    source: str


def _asked(request: Request) -> _Asked:
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        raise _BodyError("the body is not JSON") from None
    if not isinstance(document, dict):
        raise _BodyError('the body is no JSON object: {"token": ..., "csr": ...}')
    attested = "service_account_token" in document
    token = document.get("service_account_token" if attested else "token")
    node, csr = document.get("node"), document.get("csr")
    if not isinstance(token, str) or not isinstance(csr, str) or not isinstance(node, str | None):
        raise _BodyError('the body must have "token" and "csr", and may have "node", all of them strings')
    if attested and "token" in document:
        raise _BodyError('the body has both "token" and "service_account_token"; one of them counts')
    if len(csr) > MAX_REQUEST:
        raise RequestError(f"the certificate request has more than {MAX_REQUEST} bytes")
    return _Asked(token, attested, node, csr.encode(errors="replace"), source_of(request.peer))


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response.json({"error": {"code": code, "message": message}}, status, headers)
