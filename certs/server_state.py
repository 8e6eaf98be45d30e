"""What `tunnelctl init` makes and keeps: the authority and the server's own certificate.

The names in the server's certificate are those agents dial. They are given, never detected: the server may
itself be behind NAT. An authority is made only where nothing is: in the place of one that was lost, another
would lock every edge out.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from certs.addresses import IPAddress
from certs.authority import CA_CERTIFICATE, CA_KEY, Authority
from certs.callers import CALLERS_FILE
from certs.files import StateError
from certs.identity import Role, check_name
from certs.nodes import NODES_FILE
from certs.requests import key_pem, load_key, new_key
from certs.revocations import REVOCATIONS_FILE
from certs.state import Change, State
from certs.subjects import Subject, is_issued_by, read_subject
from certs.tokens import TOKENS_FILE

SERVER_KEY, SERVER_CERTIFICATE = "server.key", "server.crt"
DEFAULT_DOMAIN = "edge-tunnel"
DEFAULT_SERVER_NAME = "tunnel-server"
RENEW_BEFORE = timedelta(days=30)

_OF_AN_AUTHORITY = (SERVER_CERTIFICATE, NODES_FILE, TOKENS_FILE, CALLERS_FILE, REVOCATIONS_FILE)
"""What says that there was one."""


@dataclass(frozen=True)
class ServerNames:
    """The names in the server's certificate, in the order they were given."""

    addresses: tuple[IPAddress, ...] = ()
    dns_names: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.addresses or self.dns_names)

    def __str__(self) -> str:
        return ", ".join(self.hosts)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Addresses first: they need no resolver on the edge."""
        return (*map(str, self.addresses), *self.dns_names)


@dataclass(frozen=True)
class Initialised:
    """What an initialisation did."""

    authority: Authority
    names: ServerNames
    expires: datetime
    """The server certificate's end."""
    made_authority: bool
    issued: str
    """Why a server certificate was issued, or empty if none was."""


def server_names(state: State) -> ServerNames:
    """Return what agents may dial; raises StateError."""
    if not state.exists(SERVER_CERTIFICATE):
        raise StateError(f"{state} has no {SERVER_CERTIFICATE}: run `tunnelctl init`")
    subject = read_server(state)
    return ServerNames(subject.addresses, subject.dns_names)


def initialise(
    state: State,
    *,
    addresses: tuple[IPAddress, ...] | None = None,
    dns_names: tuple[str, ...] | None = None,
    domain: str | None = None,
    server_name: str | None = None,
    now: datetime | None = None,
    new: bool = True,
) -> Initialised:
    """Make the authority and the server's certificate, or only what is missing of them, or nothing.

    `addresses` and `dns_names`, where given, are all of their kind that the certificate shall carry; others
    than it has re-issue it, with the same key. What is None stays as it is. Without `new`, no authority is
    made; nor is one where something is that another has left. Raises StateError, and ValueError for what
    cannot be a name or domain.
    """
    now = now or datetime.now(UTC)
    for dns_name in dns_names or ():
        check_name(dns_name)
        if dns_name.rsplit(".", 1)[-1].isdigit():
            raise ValueError(f"{dns_name!r} is no DNS name: addresses go to --cert-ips")

    def make(change: Change) -> Initialised:
        files: dict[str, bytes] = {}
        # Before the authority: whoever makes all of this right now writes the authority first.
        left = [name for name in _OF_AN_AUTHORITY if state.exists(name)]
        present = [state.exists(CA_KEY), state.exists(CA_CERTIFICATE)]
        if any(present):
            if not all(present):
                missing = CA_CERTIFICATE if present[0] else CA_KEY
                raise StateError(
                    f"{state.place(missing)} is missing: restore it from a backup, or move {state} away "
                    "and begin anew (every edge must then join again)"
                )
            authority = Authority.load(state)
            if domain not in {None, authority.domain}:
                raise StateError(
                    f"{state} is of the trust domain {authority.domain}, which cannot be changed: "
                    "use another --state-dir"
                )
        else:
            if left or not new:
                raise _lost(state, left)
            authority, files = Authority.make(domain or DEFAULT_DOMAIN, now)
        current = None
        wanted = ServerNames(addresses or (), dns_names or ())
        if not files and state.exists(SERVER_CERTIFICATE):
            current = read_server(state)
            wanted = ServerNames(
                current.addresses if addresses is None else addresses,
                current.dns_names if dns_names is None else dns_names,
            )
        if current is not None and state.exists(SERVER_KEY):
            key = load_server_key(state)
            why = _reason(current, wanted, server_name, authority=authority, key=key, now=now)
        else:
            key = new_key()
            files[SERVER_KEY] = key_pem(key)
            why = "there was none" if current is None else "its key was missing"
        if not wanted:
            raise ValueError("the server's certificate needs a name: give --cert-ips or --cert-dns-names")
        name = server_name or (current.identity.name if current else DEFAULT_SERVER_NAME)
        if why or current is None:
            pem = authority.issue_server(
                key.public_key(), name, wanted.addresses, wanted.dns_names, now=now
            ).encode()
            files[SERVER_CERTIFICATE] = pem
            change.write(files)
            expires = x509.load_pem_x509_certificate(pem).not_valid_after_utc
        else:
            wanted = ServerNames(current.addresses, current.dns_names)  # the same, in the order they have
            expires = current.certificate.not_valid_after_utc
        return Initialised(authority, wanted, expires, CA_KEY in files, why)

    return state.change(make)


def _lost(state: State, left: list[str]) -> StateError:
    what = f"{state} has no authority any more"
    if left:
        what += f", although there {'is' if len(left) == 1 else 'are'} {' and '.join(left[:2])}"
    return StateError(
        f"{what}: put it back from a backup (`tunnelctl restore --authority`); without one, remove the rest "
        "too and begin anew (every edge must then join again)"
    )


def _reason(
    current: Subject,
    wanted: ServerNames,
    name: str | None,
    *,
    authority: Authority,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> str:
    names = ServerNames(current.addresses, current.dns_names)
    if set(wanted.hosts) != set(names.hosts):
        return f"its names change from {names} to {wanted}"
    if name not in {None, current.identity.name}:
        return f"the server's name changes from {current.identity.name} to {name}"
    left = current.certificate.not_valid_after_utc - now
    if left < RENEW_BEFORE:
        return "it had expired" if left <= timedelta(0) else "it would expire soon"
    if current.certificate.public_key() != key.public_key():
        return "it did not belong to the key"
    if not is_issued_by(current.certificate, authority.certificate):
        return "it was not the authority's"
    return ""


def read_server(state: State) -> Subject:
    """Return what the server's certificate says; raises StateError."""
    place = state.place(SERVER_CERTIFICATE)
    try:
        subject = read_subject(state.read(SERVER_CERTIFICATE))
    except ValueError as error:
        raise StateError(f"{place}: {error}: remove it and run `tunnelctl init`") from None
    if subject.identity.role is not Role.SERVER:
        raise StateError(f"{place} is for {subject.identity}: remove it and run `tunnelctl init`")
    return subject


def load_server_key(state: State) -> ec.EllipticCurvePrivateKey:
    """Return the server's key; raises StateError, also if others may read it."""
    try:
        return load_key(state.read_secret(SERVER_KEY))
    except ValueError as error:
        place = state.place(SERVER_KEY)
        raise StateError(f"{place} is {error}: remove it and run `tunnelctl init`") from None
