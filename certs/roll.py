"""Rolling the authority: a new root takes over from the old one while every edge keeps working.

1. `start`: a new root is made. The server trusts both and hands both out; the old one still issues.
2. `switch`, when everybody who is live trusts the new root: it issues from now on, and the server shows a
   certificate of it. Who still shows one of the old root is accepted, and told to renew.
3. `finish`, when everybody shows a certificate of the new root: the old one is trusted no longer.

The phase is not written down: it is which files there are. In the first there is `ca-next.key`, in the second
`ca.crt` has two roots, and `ca.key` is the new one's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import CA_CERTIFICATE, CA_KEY, Authority
from certs.callers import CallerRecord, CallerStore
from certs.files import StateError
from certs.identity import Role
from certs.nodes import NodeRecord, NodeStore
from certs.pins import ca_hash
from certs.requests import load_key
from certs.revocations import RevocationStore
from certs.server_state import SERVER_CERTIFICATE, load_server_key, read_server
from certs.state import Change, State
from certs.tokens import TokenState, TokenStore

NEXT_KEY = "ca-next.key"


class RollError(Exception):
    """The step cannot be taken now; one line with what can be done."""


class Phase(StrEnum):
    """How far a roll is."""

    NONE = "none"
    DISTRIBUTING = "distributing"
    """Two roots are trusted, the old one issues."""
    REPLACING = "replacing"
    """Two roots are trusted, the new one issues."""


@dataclass(frozen=True)
class RollStatus:
    """How far a roll is, and what it waits for."""

    phase: Phase
    issuing: str
    """Hash of the root that issues: what join lines name."""
    other: str
    """Hash of the other root; empty outside of a roll."""
    nodes: tuple[str, ...] = ()
    """Live nodes that the next step would cut off."""
    callers: tuple[str, ...] = ()
    tokens: tuple[tuple[str, str], ...] = ()
    """Id and node of join lines not used yet that the next step makes useless."""

    @property
    def ready(self) -> bool:
        """Whether the next step would cut nobody off."""
        return not self.nodes and not self.callers


class Roll:
    """The roll of one server's authority. Blocks; raises StateError."""

    def __init__(self, state: State, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = state
        self._clock = clock

    def status(self) -> RollStatus:
        """Say how far it is."""
        authority = Authority.load(self._state)
        issuing = ca_hash(authority.certificate)
        if len(authority.roots) == 1:
            return RollStatus(Phase.NONE, issuing, "")
        other = ca_hash(authority.roots[1])
        if self._state.exists(NEXT_KEY):
            incoming = authority.fingerprints[1]
            live = TokenStore(self._state, self._clock).list()
            return RollStatus(
                Phase.DISTRIBUTING,
                issuing,
                other,
                *self._behind(lambda _issuer, roots: incoming not in roots),
                tuple((t.id, t.node) for t in live if t.state(self._clock()) is TokenState.LIVE),
            )
        current = authority.fingerprints[0]
        return RollStatus(
            Phase.REPLACING,
            issuing,
            other,
            *self._behind(lambda issuer, _roots: issuer != current),
        )

    def start(self) -> RollStatus:
        """Make the new root, and trust it too; raises RollError if a roll is on already."""

        def make(change: Change) -> None:
            authority = Authority.load(self._state)
            if len(authority.roots) > 1:
                raise RollError("a roll is on already: see `tunnelctl ca roll status`")
            fresh, files = Authority.make(authority.domain, self._clock())
            change.write({
                NEXT_KEY: files[CA_KEY],
                CA_CERTIFICATE: _bundle(authority.certificate, fresh.certificate),
            })  # fmt: skip

        self._state.change(make)
        return self.status()

    def switch(self, *, force: bool = False) -> RollStatus:
        """Have the new root issue, and the server show a certificate of it; raises RollError.

        With `force`, those who do not trust the new root are cut off until they join again.
        """

        def switch(change: Change) -> None:
            now = self.status()
            if now.phase is not Phase.DISTRIBUTING:
                raise RollError(_not_now(now.phase))
            if not now.ready and not force:
                raise RollError(_waiting(now, "do not trust the new root yet"))
            self._switch(change)

        self._state.change(switch)
        return self.status()

    def _switch(self, change: Change) -> None:
        old = Authority.load(self._state)
        pem = self._state.read_secret(NEXT_KEY)
        try:
            key = load_key(pem)
        except ValueError as error:
            raise StateError(f"{self._state.place(NEXT_KEY)} is {error}: restore it from a backup") from None
        (incoming,) = (root for root in old.roots if root.public_key() == key.public_key())
        fresh = Authority(key, incoming, old.domain, [old.certificate])
        files = {CA_KEY: pem, CA_CERTIFICATE: fresh.pem.encode()}
        if self._state.exists(SERVER_CERTIFICATE):
            server = read_server(self._state)
            files[SERVER_CERTIFICATE] = fresh.issue_server(
                load_server_key(self._state).public_key(),
                server.identity.name,
                server.addresses,
                server.dns_names,
                now=self._clock(),
            ).encode()
        change.write(files, remove=[NEXT_KEY])

    def finish(self, *, force: bool = False) -> RollStatus:
        """Trust the old root no longer; raises RollError.

        With `force`, those who still show a certificate of it are cut off until they join again.
        """

        def finish(change: Change) -> None:
            now = self.status()
            if now.phase is not Phase.REPLACING:
                raise RollError(_not_now(now.phase))
            if not now.ready and not force:
                raise RollError(_waiting(now, "still show a certificate of the old root"))
            authority = Authority.load(self._state)
            change.write({CA_CERTIFICATE: _bundle(authority.certificate)})

        self._state.change(finish)
        return self.status()

    def _behind(
        self, behind: Callable[[str, tuple[str, ...]], bool]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the live nodes and callers of whose issuer and roots `behind` is true."""
        now, revoked = self._clock(), RevocationStore(self._state).load()

        def waited_for(role: Role, record: NodeRecord | CallerRecord) -> bool:
            return (
                record.expires > now
                and revoked.find_recorded(role, record) is None
                and behind(record.issuer, record.roots)
            )

        nodes, callers = NodeStore(self._state).load(), CallerStore(self._state).load()
        return (
            tuple(name for name, record in nodes.items() if waited_for(Role.NODE, record)),
            tuple(name for name, record in callers.items() if waited_for(Role.CALLER, record)),
        )


def _bundle(*roots: x509.Certificate) -> bytes:
    return b"".join(root.public_bytes(Encoding.PEM) for root in roots)


def _not_now(phase: Phase) -> str:
    return {
        Phase.NONE: "no roll is on: begin one with `tunnelctl ca roll start`",
        Phase.DISTRIBUTING: "the new root does not issue yet: `tunnelctl ca roll switch` comes first",
        Phase.REPLACING: "the new root issues already: what is left is `tunnelctl ca roll finish`",
    }[phase]


def _waiting(status: RollStatus, what: str) -> str:
    who = [f"node {name}" for name in status.nodes] + [f"caller {name}" for name in status.callers]
    shown = ", ".join(who[:10]) + (f" and {len(who) - 10} more" if len(who) > 10 else "")
    return f"{shown} {what}: wait (`tunnelctl ca roll status`), or cut them off with --force"
