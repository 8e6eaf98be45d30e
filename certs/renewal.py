"""New certificates for those who show a good one: the same name, the same addresses, a new key.

Whether the certificate that is shown is good (verified, in time, not revoked) was decided before: here is
only what it is exchanged for, and what the authority remembers of it. Knows no transport.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from certs.addresses import IPAddress
from certs.authority import NODE_LIFE, SERVER_LIFE, Authority
from certs.callers import CALLERS_FILE, CallerRecord, CallerStore
from certs.identity import Identity, Role
from certs.nodes import NODES_FILE, NodeRecord, NodeStore
from certs.requests import PublicKey, RequestError, read_request
from certs.revocations import RevocationList, RevocationStore
from certs.state import Change, State
from certs.subjects import Subject, read_subject

MAX_CALLER_LIFE = timedelta(days=3650)


class RevokedError(Exception):
    """The certificate that was shown is good no longer; one line."""


class CallerExistsError(Exception):
    """There is a caller of this name already; one line."""


@dataclass(frozen=True)
class Renewed:
    """What the holder of a certificate gets for it."""

    identity: Identity
    addresses: tuple[IPAddress, ...]
    certificate: str
    """PEM."""
    ca: str
    """PEM, the bundle to verify servers with."""


class Renewals:
    """The server's desk for those who are known already. Its methods block; call them in threads."""

    def __init__(
        self,
        state: State,
        authority: Authority,
        *,
        node_life: timedelta = NODE_LIFE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.authority = authority
        """May be replaced at any time, when the authority is rolled."""
        self.node_life = node_life
        """May be replaced at any time."""
        self._state = state
        self._nodes = NodeStore(state)
        self._callers = CallerStore(state)
        self._revocations = RevocationStore(state, clock)
        self._clock = clock

    def renew(self, shown: bytes, request: bytes) -> Renewed:
        """Issue a certificate over the key in `request` to whom `shown` (DER) is for.

        Raises RequestError, RevokedError, StateError; then nothing was issued.
        """
        key = read_request(request)
        current = _read(shown)
        if current.certificate.public_key() == key:
            raise RequestError("a renewal needs a new key: the request carries that of the certificate")
        authority = self.authority
        if not authority.issuer_of(current.certificate):
            # A connection may be older than the end of a roll.
            raise RevokedError(
                f"the certificate of {current.identity} is of a root that is trusted no longer"
            )

        def issue(change: Change) -> Renewed:
            # What was revoked a moment ago must not be renewed on the strength of an older look.
            revoked = self._revocations.load()
            _refuse_revoked(revoked, current)
            now = revoked.issue_time(current.identity, self._clock())
            name = current.identity.name
            if current.identity.role is Role.NODE:
                nodes = self._nodes.load()
                known = nodes.get(name)
                # The record may be lost; the certificate says the same.
                addresses = known.addresses if known else current.addresses
                pem = authority.issue_node(
                    key, name, addresses, life=self.node_life, now=now, attested=current.attested
                )
                fresh = _node_record(pem, known, name, addresses)
                change.write({NODES_FILE: self._nodes.encode({**nodes, name: fresh})})
            else:
                callers = self._callers.load()
                caller = callers.get(name)
                life = caller.life if caller else SERVER_LIFE
                pem, addresses = authority.issue_caller(key, name, life=life, now=now), ()
                record = _caller_record(pem, authority, name, life)
                change.write({CALLERS_FILE: self._callers.encode({**callers, name: record})})
            return Renewed(current.identity, addresses, pem, authority.pem)

        return self._state.change(issue)

    def seen(self, shown: bytes, roots: tuple[str, ...]) -> str:
        """Remember what a node shows (DER), and the fingerprints of the roots that it says it trusts.

        Returns why it should renew at once, or nothing. Writes only what has changed. Raises StateError.
        """
        current = _read(shown)
        issuer = self.authority.issuer_of(current.certificate)
        name = current.identity.name
        if current.identity.role is Role.NODE:
            known = self._nodes.load().get(name)
            if known is not None and (known.issuer, known.roots) != (issuer, roots):
                self._state.change(partial(self._remember, name, issuer, roots))
        if issuer != self.authority.fingerprints[0]:
            return "its certificate is of a root that is being replaced"
        return ""

    def _remember(self, name: str, issuer: str, roots: tuple[str, ...], change: Change) -> None:
        nodes = self._nodes.load()
        if name in nodes:
            nodes[name] = replace(nodes[name], issuer=issuer, roots=roots)
            change.write({NODES_FILE: self._nodes.encode(nodes)})


def create_caller(
    state: State,
    authority: Authority,
    name: str,
    key: PublicKey,
    *,
    life: timedelta,
    again: bool = False,
    now: datetime | None = None,
) -> Renewed:
    """Issue a caller's certificate on the server's own host.

    Raises CallerExistsError unless `again`, ValueError for a bad name or life, StateError.
    """
    if not timedelta(0) < life <= MAX_CALLER_LIFE:
        raise ValueError(f"a caller's certificate lives more than 0 and at most {MAX_CALLER_LIFE.days} days")
    identity = Identity(authority.domain, Role.CALLER, name)
    store = CallerStore(state)

    def issue(change: Change) -> Renewed:
        callers = store.load()
        if name in callers and not again:
            until = f"{callers[name].expires:%Y-%m-%d}"
            raise CallerExistsError(f"there is a caller {name} already, with a certificate until {until}")
        moment = RevocationStore(state).load().issue_time(identity, now or datetime.now(UTC))
        pem = authority.issue_caller(key, name, life=life, now=moment)
        callers[name] = _caller_record(pem, authority, name, life)
        change.write({CALLERS_FILE: store.encode(callers)})
        return Renewed(identity, (), pem, authority.pem)

    return state.change(issue)


def _read(shown: bytes) -> Subject:
    try:
        return read_subject(shown)
    except ValueError as error:
        raise RequestError(f"the certificate that was shown cannot be read: {error}") from None


def _refuse_revoked(revoked: RevocationList, current: Subject) -> None:
    issued = current.issued.timestamp()
    found = revoked.find(current.identity, f"{current.certificate.serial_number:x}", issued)
    if found is not None:
        raise RevokedError(str(found))


def _node_record(
    pem: str, known: NodeRecord | None, name: str, addresses: tuple[IPAddress, ...]
) -> NodeRecord:
    subject = read_subject(pem.encode())
    serial, expires = f"{subject.certificate.serial_number:x}", subject.certificate.not_valid_after_utc
    attested = subject.attested
    if known is None:
        return NodeRecord(name, addresses, serial, expires, subject.issued, attested=attested)
    # What it trusts and shows is what it says at its next look, not what it was sent: answers get lost.
    return replace(known, serial=serial, expires=expires, issued=subject.issued, attested=attested)


def _caller_record(pem: str, authority: Authority, name: str, life: timedelta) -> CallerRecord:
    subject = read_subject(pem.encode())
    return CallerRecord(
        name,
        f"{subject.certificate.serial_number:x}",
        subject.issued,
        subject.certificate.not_valid_after_utc,
        life,
        authority.fingerprints[0],
        authority.fingerprints,
    )
