"""What joining left in the state directory, checked, and turned into a TLS context.

Read again for every dial, so that renewed files count from the next link on. Standard library only: whoever
has joined needs no `cryptography`, and an idle agent stays small.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from certs.attested import is_attested
from certs.files import StateDirectory, StateError
from certs.identity import Identity, Role
from certs.shown import shown_certificate
from certs.validity import Validity
from tunnel_agent.endpoint import Endpoint
from tunnel_agent.proxy import ProxyChoice
from tunnel_agent.tls_errors import TlsFailedError, clock_text
from tunnel_wire.tls import strict_context

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from certs.addresses import IPAddress

KEY, CERTIFICATE, AUTHORITY, DETAILS = "node.key", "node.crt", "ca.crt", "agent.json"
ALPN = "tunnel/1"


class CredentialsError(Exception):
    """The agent can't dial with what is in its state directory; one line, with the remedy."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who this agent is, and how it shows it."""

    identity: Identity
    addresses: frozenset[IPAddress]
    """The IP addresses in the certificate: what the server may capture for this node."""
    not_before: float
    not_after: float
    """Seconds since the epoch."""
    servers: tuple[Endpoint, ...]
    """The servers that joining stored."""
    context: ssl.SSLContext
    proxy: str = field(default="", repr=False)
    """The proxy that joining went through, as in the configuration; "" where it was told of none."""
    serial: str = ""
    """The certificate's, in hexadecimal."""
    attested: bool = False
    """A cluster vouches for this node: its addresses are what the cluster says, and its machine has."""

    def clock_problem(self, now: float) -> str | None:
        """Say what is wrong with this agent's certificate at `now` (seconds since the epoch), or None.

        Not fatal: it is the server's clock that counts, and a small machine's is often wrong at boot.
        """
        if now < self.not_before:
            return (
                f"this agent's certificate is valid from {clock_text(self.not_before)} only, and the clock "
                f"of this machine says {clock_text(now)}: if that is wrong, set the clock (NTP)"
            )
        if now > self.not_after:
            return (
                f"this agent's certificate expired on {clock_text(self.not_after)}, and the clock of this "
                f"machine says {clock_text(now)}: if that is right, join again (`tunnel-agent join`)"
            )
        return None


def load_credentials(path: Path, *, log_secrets: bool = False) -> Credentials:
    """Load and check what is in the state directory `path`; raises CredentialsError.

    With `log_secrets`, links need OpenSSL for their handshakes only (`tunnel_wire.link_tls`).
    """
    try:
        return _load(path, log_secrets)
    except CredentialsError:
        # A renewal or another join may have been replacing the files one by one. Opening the directory
        # waits until that is done.
        return _load(path, log_secrets)


def _load(path: Path, log_secrets: bool) -> Credentials:
    try:
        state = StateDirectory(path)
        missing = [name for name in (KEY, CERTIFICATE, AUTHORITY, DETAILS) if not state.exists(name)]
        if missing:
            raise _not_joined(path, missing)
        state.read_secret(KEY)
        servers, proxy = _read_details(state.read(DETAILS), path)
    except StateError as error:
        if not path.exists():
            raise _not_joined(path, [KEY]) from None
        raise CredentialsError(str(error)) from None
    context = strict_context(server_side=False)
    context.log_secrets = log_secrets
    context.set_alpn_protocols([ALPN])
    _load_files(context, path)
    certificate = _own_certificate(path)
    try:
        identity = Identity.from_peer_certificate(certificate)
    except ValueError as error:
        raise CredentialsError(f"{path / CERTIFICATE}: {error}") from None
    if identity.role is not Role.NODE:
        raise CredentialsError(f"{path / CERTIFICATE} is for {identity.uri}, not for a node")
    validity = Validity.from_peer_certificate(certificate)
    return Credentials(
        identity=identity,
        addresses=_addresses(certificate),
        not_before=validity.not_before,
        not_after=validity.not_after,
        servers=servers,
        context=context,
        proxy=proxy,
        serial=str(certificate["serialNumber"]),
        attested=is_attested(certificate),
    )


def details(node: str, addresses: Iterable[str], servers: Iterable[Endpoint], proxy: str) -> bytes:
    """Return the content of DETAILS: what the certificate says, for people, and how the server is reached."""
    content = {"node": node, "addresses": list(addresses), "servers": [str(each) for each in servers]}
    return json.dumps(content | ({"proxy": proxy} if proxy else {}), indent=1).encode() + b"\n"


def check_server(alpn: str | None, certificate: Mapping[str, object] | None, own: Identity) -> Identity:
    """Check that a finished handshake led to a tunnel server of our own domain; raises TlsFailedError.

    The name and the authority were OpenSSL's to check; this is what keeps another node, whose certificate
    is of the same authority and may name any IP address it was given, from playing the server.
    """
    if alpn != ALPN:
        raise TlsFailedError(
            "no-tunnel", f"what answers there does not offer {ALPN}: is that the right port?"
        )
    try:
        identity = Identity.from_peer_certificate(certificate)
    except ValueError as error:
        raise TlsFailedError("not-a-server", f"what answers there is no tunnel server: {error}") from None
    if identity.role is not Role.SERVER or identity.domain != own.domain:
        raise TlsFailedError(
            "not-a-server",
            f"what answers there is {identity.uri}, not a server of {own.domain}: the connection was closed",
        )
    return identity


def _not_joined(path: Path, missing: list[str]) -> CredentialsError:
    return CredentialsError(
        f"this agent has not joined: {path} has no {', '.join(missing)}; run the `tunnel-agent join ...` "
        "line that `tunnelctl token create` prints on the server"
    )


def _read_details(content: bytes, path: Path) -> tuple[tuple[Endpoint, ...], str]:
    try:
        read = json.loads(content)
        servers = tuple(Endpoint.parse(server) for server in read["servers"])
        return servers, ProxyChoice.parse(read.get("proxy", "")).text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CredentialsError(f"{path / DETAILS} is damaged ({error}): join again") from None


def _load_files(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path / AUTHORITY)
    except (ssl.SSLError, OSError) as error:
        raise CredentialsError(f"{path / AUTHORITY} can't be used ({_reason(error)}): join again") from None
    try:
        # Without the callback, OpenSSL would ask an encrypted key's password on the terminal.
        context.load_cert_chain(path / CERTIFICATE, path / KEY, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        raise CredentialsError(
            f"{path / CERTIFICATE} and {path / KEY} can't be used ({_reason(error)}): join again"
        ) from None


def _reason(error: OSError) -> str:
    words = getattr(error, "reason", None) or error.strerror or str(error)
    return str(words).lower().replace("_", " ")


def _own_certificate(path: Path) -> Mapping[str, object]:
    """What it says, and that the server could accept it; the clock is left out (see clock_problem)."""
    try:
        certificate = shown_certificate(lambda context: _load_files(context, path))
    except ssl.SSLCertVerificationError as error:
        raise CredentialsError(
            f"{path / CERTIFICATE} does not verify with {AUTHORITY} ({error.verify_message}): join again"
        ) from None
    if not certificate:
        raise CredentialsError(f"{path / CERTIFICATE} can't be used: join again")
    return certificate


def _addresses(certificate: Mapping[str, object]) -> frozenset[IPAddress]:
    names = certificate.get("subjectAltName", ())
    assert isinstance(names, tuple)
    return frozenset(ipaddress.ip_address(value.strip()) for kind, value in names if kind == "IP Address")
