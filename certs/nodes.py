"""The nodes that have been given a certificate, kept so that they are known while they are away.

The server captures a known node's addresses also while its agent is not connected.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from certs.addresses import IPAddress, parse_address
from certs.files import StateError
from certs.identity import check_name
from certs.state import Change, State

NODES_FILE = "nodes.json"


@dataclass(frozen=True)
class NodeRecord:
    """What the authority last issued to a node."""

    name: str
    addresses: tuple[IPAddress, ...]
    serial: str
    """The certificate's, in hexadecimal."""
    expires: datetime
    issued: datetime | None = None
    issuer: str = ""
    """Fingerprint of the root that issued the certificate it last showed."""
    roots: tuple[str, ...] = ()
    """Fingerprints of the roots that it has said it trusts."""
    attested: bool = False
    """It was issued because a cluster vouches for the node, see `certs.attested`."""


class NodeStore:
    """`nodes.json` of a server's state. All methods block; raises StateError."""

    def __init__(self, state: State) -> None:
        self._state = state

    def load(self) -> dict[str, NodeRecord]:
        """Return the known nodes by name; none when the file is not there yet."""
        if not self._state.exists(NODES_FILE):
            return {}
        try:
            document = json.loads(self._state.read(NODES_FILE))
            return {name: _decode(name, entry) for name, entry in document["nodes"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(
                f"{self._state.place(NODES_FILE)} is damaged ({error}): restore it from a backup, "
                "or remove it; nodes are then known again as they join"
            ) from None

    def remove(self, name: str, *, serial: str | None = None) -> NodeRecord | None:
        """Forget a node, and return what was known of it. Its certificate is as good as before.

        With `serial`, only if that is the certificate's that it was last issued.
        """

        def forget(change: Change) -> NodeRecord | None:
            known = self.load()
            record = known.pop(name, None)
            if record is not None and serial not in {None, record.serial}:
                return None
            if record is not None:
                change.write({NODES_FILE: self.encode(known)})
            return record

        return self._state.change(forget)

    @staticmethod
    def encode(nodes: Mapping[str, NodeRecord]) -> bytes:
        """Return the file's contents, for a Transaction."""
        entries = {
            name: {
                "addresses": [str(address) for address in node.addresses],
                "serial": node.serial,
                "expires": node.expires.isoformat(),
                "issued": node.issued.isoformat() if node.issued else None,
                "issuer": node.issuer,
                "roots": list(node.roots),
                **({"attested": True} if node.attested else {}),
            }
            for name, node in sorted(nodes.items())
        }
        return json.dumps({"version": 1, "nodes": entries}, indent=1).encode() + b"\n"


def _decode(name: str, entry: Mapping[str, object]) -> NodeRecord:
    check_name(name)
    addresses = entry["addresses"]
    if not isinstance(addresses, list):
        raise TypeError(f"addresses of {name}")
    expires = datetime.fromisoformat(str(entry["expires"]))
    roots = entry.get("roots", [])
    if not isinstance(roots, list):
        raise TypeError(f"roots of {name}")
    return NodeRecord(
        name,
        tuple(map(parse_address, addresses)),
        str(entry["serial"]),
        expires,
        datetime.fromisoformat(str(entry["issued"])) if entry.get("issued") else None,
        str(entry.get("issuer", "")),
        tuple(map(str, roots)),
        entry.get("attested") is True,
    )
