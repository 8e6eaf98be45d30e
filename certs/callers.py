"""The callers that have been given a certificate, so that a name is not given twice by mistake."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from certs.files import StateError
from certs.identity import check_name
from certs.state import State

CALLERS_FILE = "callers.json"


@dataclass(frozen=True)
class CallerRecord:
    """What the authority last issued to a caller."""

    name: str
    serial: str
    """The certificate's, in hexadecimal."""
    issued: datetime
    expires: datetime
    life: timedelta
    """For how long it was asked for; a renewal gives as much again."""
    issuer: str
    """Fingerprint of the root that issued the certificate."""
    roots: tuple[str, ...]
    """Fingerprints of the roots that were handed out with it."""


class CallerStore:
    """`callers.json` of a server's state. Blocks; raises StateError."""

    def __init__(self, state: State) -> None:
        self._state = state

    def load(self) -> dict[str, CallerRecord]:
        """Return the known callers by name; none when the file is not there yet."""
        if not self._state.exists(CALLERS_FILE):
            return {}
        try:
            document = json.loads(self._state.read(CALLERS_FILE))
            return {name: _decode(name, entry) for name, entry in document["callers"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"{self._state.place(CALLERS_FILE)} is damaged ({error}): restore it from a backup, "
                "or remove it; the callers' certificates stay good"
            ) from None

    @staticmethod
    def encode(callers: Mapping[str, CallerRecord]) -> bytes:
        """Return the file's contents, for a Transaction."""
        entries = {
            name: {
                "serial": caller.serial,
                "issued": caller.issued.isoformat(),
                "expires": caller.expires.isoformat(),
                "life_seconds": caller.life.total_seconds(),
                "issuer": caller.issuer,
                "roots": list(caller.roots),
            }
            for name, caller in sorted(callers.items())
        }
        return json.dumps({"version": 1, "callers": entries}, indent=1).encode() + b"\n"


def _decode(name: str, entry: Mapping[str, object]) -> CallerRecord:
    check_name(name)
    roots = entry["roots"]
    if not isinstance(roots, list):
        raise TypeError(f"roots of {name}")
    return CallerRecord(
        name,
        str(entry["serial"]),
        datetime.fromisoformat(str(entry["issued"])),
        datetime.fromisoformat(str(entry["expires"])),
        timedelta(seconds=float(str(entry["life_seconds"]))),
        str(entry["issuer"]),
        tuple(map(str, roots)),
    )
