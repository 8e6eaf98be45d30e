"""Which certificates are no longer accepted, and since when.

A node or a caller is revoked by name: every certificate issued to it up to that second is refused, and so
is every join token made for it until then. What is issued later, for a token made later, is good: that is how
a revoked machine comes back. A node that a cluster vouches for comes back once it is *readmitted*, again with
a certificate that is issued later. One certificate is revoked by its serial, for good.

Standard library only. When something was issued is read from the certificate itself (`certs.validity`).
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from certs.files import StateError
from certs.identity import Identity, Role, check_name
from certs.state import Change, State
from certs.validity import Validity, moment

REVOCATIONS_FILE = "revocations.json"
MAX_REVOCATIONS = 100_000

_SERIAL = re.compile(r"[0-9a-f]{1,40}")  # at most 20 octets: RFC 5280, section 4.1.2.2


class Kind(StrEnum):
    """What a revocation names."""

    NODE = "node"
    CALLER = "caller"
    SERIAL = "serial"


@dataclass(frozen=True)
class Revocation:
    """One entry."""

    kind: Kind
    value: str
    """The name, or the serial in lower-case hexadecimal without leading zeros."""
    at: datetime
    """To the second; of a name, certificates issued later are good."""
    reason: str = ""
    readmitted: bool = False
    """Of a node: if it is vouched for, it is issued another certificate; those of before stay refused."""

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"{self.kind.value} {self.value} was revoked at {moment(self.at.timestamp())}{why}"


class Recorded(Protocol):
    """What is kept of the certificate that was last issued to a node or a caller."""

    @property
    def name(self) -> str:
        """Whose it is."""

    @property
    def serial(self) -> str:
        """In hexadecimal."""

    @property
    def issued(self) -> datetime | None:
        """None if it is not known."""


class RevocationList:
    """What was revoked when the file was read."""

    def __init__(self, entries: Iterable[Revocation] = ()) -> None:
        self._entries = {(entry.kind, entry.value): entry for entry in entries}

    def __iter__(self) -> Iterator[Revocation]:
        return iter(sorted(self._entries.values(), key=lambda entry: (entry.at, entry.kind, entry.value)))

    def find(self, identity: Identity, serial: str, issued: float | None = None) -> Revocation | None:
        """Return what revokes the certificate of this identity and serial (hexadecimal), if anything does.

        `issued` is in seconds since the epoch; without it, a revoked name stays refused.
        """
        return self._find(identity.role, identity.name, serial, issued)

    def find_recorded(self, role: Role, record: Recorded) -> Revocation | None:
        """Return what revokes the certificate that a node or a caller was last issued, if anything does."""
        issued = None if record.issued is None else record.issued.timestamp()
        return self._find(role, record.name, record.serial, issued)

    def find_certificate(self, certificate: Mapping[str, object]) -> Revocation | None:
        """The same for a verified certificate, as `getpeercert` gives it; raises ValueError."""
        identity = Identity.from_peer_certificate(certificate)
        issued = Validity.from_peer_certificate(certificate).issued
        return self.find(identity, str(certificate["serialNumber"]), issued)

    def _find(self, role: Role, name: str, serial: str, issued: float | None) -> Revocation | None:
        found = self._entries.get((Kind.SERIAL, normal_serial(serial)))
        if found is None and role is not Role.SERVER:
            found = self.of(Kind(role.value), name)
            if found is not None and issued is not None and issued > found.at.timestamp():
                found = None
        return found

    def of(self, kind: Kind, value: str) -> Revocation | None:
        """Return the entry for exactly this."""
        return self._entries.get((kind, value))

    def issue_time(self, identity: Identity, now: datetime) -> datetime:
        """Return the time to put on a certificate issued at `now`, so that no revocation of before meets it.

        Certificates count in whole seconds: within the second of a revocation, that is the next one.
        """
        found = None if identity.role is Role.SERVER else self.of(Kind(identity.role.value), identity.name)
        return now if found is None else max(now, found.at + timedelta(seconds=1))


class RevocationStore:
    """`revocations.json` of a server's state. Blocks; raises StateError."""

    def __init__(self, state: State, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._state = state
        self._clock = clock

    def load(self) -> RevocationList:
        """Return what is revoked; nothing when the file is not there yet."""
        if not self._state.exists(REVOCATIONS_FILE):
            return RevocationList()
        try:
            document = json.loads(self._state.read(REVOCATIONS_FILE))
            return RevocationList(_decode(entry) for entry in document["revocations"])
        except (ValueError, KeyError, TypeError) as error:
            raise StateError(
                f"{self._state.place(REVOCATIONS_FILE)} is damaged ({error}): restore it from a backup; "
                "without it, whoever was revoked would be let in again"
            ) from None

    def add(
        self,
        change: Change,
        kind: Kind,
        value: str,
        reason: str = "",
        others: Mapping[str, bytes] | None = None,
        *,
        issued: datetime | None = None,
        readmitted: bool = False,
    ) -> Revocation:
        """Revoke, in an open change, and write `others` with it; raises ValueError for no name or serial.

        A name may be revoked again: what was issued in between is then refused too. So is what was `issued`
        by a server whose clock is ahead of this one's.
        """
        if kind is Kind.SERIAL:
            value = normal_serial(value)
        else:
            check_name(value)
        entries = list(self.load())
        if len(entries) >= MAX_REVOCATIONS:
            raise ValueError(f"there are {MAX_REVOCATIONS} revocations already: roll the authority instead")
        now = self._clock().replace(microsecond=0)
        entry = Revocation(kind, value, now if issued is None else max(now, issued), reason, readmitted)
        kept = [each for each in entries if (each.kind, each.value) != (kind, value)]
        change.write({REVOCATIONS_FILE: _encode([*kept, entry]), **(others or {})})
        return entry

    def remove(self, kind: Kind, value: str) -> Revocation:
        """Undo a revocation and return it; raises KeyError if there is none, ValueError for no serial."""
        if kind is Kind.SERIAL:
            value = normal_serial(value)

        def take_back(change: Change) -> Revocation:
            known = self.load()
            entry = known.of(kind, value)
            if entry is None:
                raise KeyError(value)
            change.write({REVOCATIONS_FILE: _encode(each for each in known if each is not entry)})
            return entry

        return self._state.change(take_back)


def normal_serial(text: str) -> str:
    """Return a serial in the one way we write them; takes colons and `0x` too. Raises ValueError."""
    serial = text.strip().lower().replace(":", "").removeprefix("0x").lstrip("0") or "0"
    if not _SERIAL.fullmatch(serial):
        raise ValueError(f"{text!r} is no serial: it is hexadecimal, at most 40 digits, as openssl prints it")
    return serial


def _encode(entries: Iterable[Revocation]) -> bytes:
    listed = [
        {
            "kind": entry.kind.value,
            "value": entry.value,
            "at": entry.at.isoformat(),
            "reason": entry.reason,
            **({"readmitted": True} if entry.readmitted else {}),
        }
        for entry in entries
    ]
    return json.dumps({"version": 1, "revocations": listed}, indent=1).encode() + b"\n"


def _decode(entry: Mapping[str, object]) -> Revocation:
    return Revocation(
        Kind(str(entry["kind"])),
        str(entry["value"]),
        datetime.fromisoformat(str(entry["at"])),
        str(entry["reason"]),
        entry.get("readmitted") is True,
    )
