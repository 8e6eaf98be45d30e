"""What the admin API tells `tunnelctl doctor`; field names and times as in `views.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import datetime

    from tunnel_server.admin.views import InterceptionView, MappingView, NodeView


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenView:
    """A join token of one node, without its secret."""

    id: str
    state: str
    """live, used, expired or revoked."""
    created: datetime.datetime
    expires: datetime.datetime
    used: datetime.datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClaimantView:
    """Another node that claims an address."""

    name: str
    connected: bool
    away_since: datetime.datetime | None = None
    """None also if it was not here since the server started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkEndView:
    """How a node's last link ended, or why it was refused."""

    time: datetime.datetime
    host: str
    """The address it came from."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class HandshakeView:
    """A TLS handshake that some agent broke off."""

    time: datetime.datetime
    host: str
    alert: str
    """What it has against the server's certificate: bad-certificate, certificate-expired, unknown-ca."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressView:
    """One address of one node, and what stands between a caller and it."""

    address: str
    held: bool
    """It counts as the node's: no rule forbids it, and its certificate is accepted."""
    captured: bool
    """The kernel redirects connections to it."""
    routed: bool
    """This host has a route to it, so that its programs get as far as being captured."""
    claimants: tuple[ClaimantView, ...] = ()
    """The other nodes whose certificates name it."""
    refusal: str = ""
    """Why it is not captured: what forbids it, or what interception says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosisView:
    """What the server knows of one name: `tunnelctl doctor` judges it."""

    name: str
    server_version: str
    server_time: datetime.datetime
    uptime_seconds: float
    node: NodeView | None = None
    """None: no node of that name has joined."""
    known_names: tuple[str, ...] = ()
    """Where it is not known: those that are, a hundred at most."""
    tokens: tuple[TokenView, ...] = ()
    """The oldest first."""
    problems: tuple[str, ...] = ()
    """As `mapping_problems` of the status."""
    certificate_begins: datetime.datetime | None = None
    certificate_expires: datetime.datetime | None = None
    """Of the certificate that was issued last."""
    certificate_revoked: str = ""
    """When that one was revoked, and why."""
    answers: bool | None = None
    """Whether it showed life when it was asked by PING just now; None while it is away."""
    patience_seconds: float = 0.0
    """What it got for that."""
    silent_seconds: float | None = None
    """Since anything was last heard from it; None while it is away."""
    gives_up_seconds: float | None = None
    """Until the server ends the link, should it stay silent."""
    clock_ahead_seconds: float | None = None
    """By how much its clock was ahead of this server's when it made its newest link; None: it did not say."""
    last_end: LinkEndView | None = None
    """None: it had no link since the server started."""
    broken_handshake: HandshakeView | None = None
    """The last one that may have been this node's; None while it is connected."""
    addresses: tuple[AddressView, ...] = ()
    interception: InterceptionView
    mappings: tuple[MappingView, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeView:
    """What came of having a node's agent dial."""

    host: str
    port: int
    ok: bool
    cause: str | None = None
    """As in `recent_failures`."""
    detail: str = ""
    ms: float = 0.0
    """From the question to the answer."""


class Doctor(Protocol):
    """What the admin API needs for `tunnelctl doctor`."""

    async def diagnose(self, name: str) -> DiagnosisView:
        """What is known of `name`; raises StateError."""

    async def probe(self, name: str, host: str, port: int) -> ProbeView:
        """Have the node's agent dial."""
