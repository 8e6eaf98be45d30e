"""Turning a token, or another's word, and a request into a node's certificate: all of it happens, or nothing.

Ties authority, tokens and nodes together; knows no transport. Names and addresses come from the token,
whatever the request claims.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from certs.addresses import DEFAULT_EDGE_NETWORKS, IPAddress, IPNetwork, check_edge_address, is_own_address
from certs.authority import NODE_LIFE, Authority
from certs.files import StateError
from certs.identity import Identity, Role
from certs.nodes import NODES_FILE, NodeRecord, NodeStore
from certs.renewal import RevokedError
from certs.requests import PublicKey, key_digest, read_request
from certs.revocations import Kind, RevocationStore
from certs.state import Change, State
from certs.subjects import read_subject
from certs.tokens import Issued, TokenRecord, TokenStore

log = logging.getLogger(__name__)


class AddressRefusedError(Exception):
    """The token is good, but an address in it may no longer be held by an edge; one line."""


@dataclass(frozen=True)
class Enrolled:
    """What a node gets for its token."""

    node: str
    addresses: tuple[IPAddress, ...]
    certificate: str
    """PEM."""
    ca: str
    """PEM, the bundle to verify servers with."""


class Enrolment:
    """The server's desk for joining nodes. Its methods block; call them in threads."""

    def __init__(
        self,
        state: State,
        authority: Authority,
        *,
        edge_networks: Iterable[IPNetwork] = DEFAULT_EDGE_NETWORKS,
        node_life: timedelta = NODE_LIFE,
        is_own: Callable[[IPAddress], bool] = is_own_address,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.authority = authority
        """May be replaced at any time, when the authority is rolled."""
        self._state = state
        self.tokens = TokenStore(state, clock)
        self.nodes = NodeStore(state)
        self._revocations = RevocationStore(state, clock)
        self._networks = tuple(edge_networks)
        self._node_life = node_life
        self._is_own = is_own
        self._clock = clock

    def check_address(self, address: IPAddress) -> None:
        """Raise AddressRefusedError unless an edge may hold `address` behind this host; StateError if that
        cannot be told.
        """
        try:
            check_edge_address(address, self._networks)
        except ValueError as error:
            raise AddressRefusedError(str(error)) from None
        try:
            is_own = self._is_own(address)
        except OSError as error:
            raise StateError(
                f"whether {address} is this host's own cannot be told: {error.strerror}"
            ) from None
        if is_own:
            raise AddressRefusedError(f"{address} is an address of this host itself: no edge can hold it")

    def holders(self, address: IPAddress) -> list[str]:
        """Return the names of the nodes that hold `address`, by a certificate that is not revoked."""
        revoked = self._revocations.load()
        return sorted(
            each.name
            for each in self.nodes.load().values()
            if address in each.addresses and revoked.find_recorded(Role.NODE, each) is None
        )

    def join(self, token: str, node: str | None, request: bytes) -> Enrolled:
        """Exchange `token` for a certificate over the key in `request` (PEM, PKCS #10).

        `node`, where given, must be the token's. Raises TokenRefusedError, RequestError, AddressRefusedError,
        StateError; none of them uses the token up.
        """
        self.tokens.find(token, node)  # before any cryptography: strangers get no work out of us
        key = read_request(request)
        authority = self.authority
        record = self.tokens.redeem(
            token, node, key_digest(key), lambda found: self._issue(found, key, authority), self._missing
        )
        return Enrolled(record.node, record.addresses, record.certificate, authority.pem)

    def _missing(self, record: TokenRecord) -> Mapping[str, bytes]:
        """The files that are to say what a used token was used for, if none says so or more."""
        subject = read_subject(record.certificate.encode())
        known = self.nodes.load().get(record.node)
        if known is not None and (known.issued is None or known.issued >= subject.issued):
            return {}
        return self._recorded(record.node, record.addresses, record.certificate, self.authority)

    def enrol(self, node: str, request: bytes, *, after: datetime | None = None) -> Enrolled:
        """Issue a certificate over the key in `request` to a node that somebody trusted vouches for.

        It is dated `after` what vouches for it began, by whatever clock.

        It proves the name and carries no address: what vouches for such a node also says where it is. A node
        that was revoked stays out until it is readmitted, or has joined with a token since: whatever was
        revoked would be vouched for as before. Raises RevokedError, RequestError, StateError.
        """
        key = read_request(request)
        authority = self.authority

        def issue(change: Change) -> Issued:
            known = self.nodes.load().get(node)
            revoked = self._revocations.load().of(Kind.NODE, node)
            issued = known.issued if known else None
            back = revoked is None or revoked.readmitted or (issued is not None and issued > revoked.at)
            if not back:
                raise RevokedError(
                    f"{revoked}; to let it in with a new certificate: tunnelctl revoke --readmit {node}"
                )
            made = self._certify(node, (), key, authority, attested=True, after=after)
            change.write(made.files)
            return made

        made = self._state.change(issue)
        return Enrolled(node, (), made.certificate, authority.pem)

    def _issue(self, record: TokenRecord, key: PublicKey, authority: Authority) -> Issued:
        for address in record.addresses:
            self.check_address(address)
            if others := [name for name in self.holders(address) if name != record.node]:
                log.warning(
                    "%s is now held by %s and by %s: none of them is reached by it, only by name",
                    address, record.node, ", ".join(others),
                )  # fmt: skip
        return self._certify(record.node, record.addresses, key, authority)

    def _certify(
        self,
        node: str,
        addresses: tuple[IPAddress, ...],
        key: PublicKey,
        authority: Authority,
        *,
        attested: bool = False,
        after: datetime | None = None,
    ) -> Issued:
        identity = Identity(authority.domain, Role.NODE, node)
        now = self._revocations.load().issue_time(identity, self._clock())
        now = now if after is None else max(now, after + timedelta(seconds=1))
        pem = authority.issue_node(key, node, addresses, life=self._node_life, now=now, attested=attested)
        return Issued(pem, self._recorded(node, addresses, pem, authority))

    def _recorded(
        self, node: str, addresses: tuple[IPAddress, ...], pem: str, authority: Authority
    ) -> Mapping[str, bytes]:
        subject = read_subject(pem.encode())
        record = NodeRecord(
            node,
            addresses,
            f"{subject.certificate.serial_number:x}",
            subject.certificate.not_valid_after_utc,
            issued=subject.issued,
            issuer=authority.issuer_of(subject.certificate),
            roots=authority.fingerprints,
            attested=subject.attested,
        )
        return {NODES_FILE: self.nodes.encode({**self.nodes.load(), node: record})}
