"""Revocations in force. What is connected already feels them through `tunnel_server.acceptance`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from certs.identity import Role
from certs.revocations import REVOCATIONS_FILE, RevocationStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from certs.identity import Identity
    from certs.nodes import NodeRecord
    from certs.state import State


class Revocations:
    """What is revoked now. Nothing here waits; `reload` reads them from where they are kept."""

    FILE = REVOCATIONS_FILE

    def __init__(self, state: State) -> None:
        """Raises StateError: a server that does not know whom to refuse must not start."""
        self._store = RevocationStore(state)
        self._list = self._store.load()

    def check(self, identity: Identity, serial: str, issued: float | None = None) -> str | None:
        """Return why a certificate is refused, or None.

        `serial` is hexadecimal. `issued` is in seconds since the epoch (`certs.validity`); without it, a name
        that was ever revoked stays refused.
        """
        found = self._list.find(identity, serial, issued)
        return None if found is None else str(found)

    def check_certificate(self, certificate: Mapping[str, object]) -> str | None:
        """The same for a verified certificate, as `getpeercert` gives it; raises ValueError."""
        found = self._list.find_certificate(certificate)
        return None if found is None else str(found)

    def check_node(self, record: NodeRecord) -> str | None:
        """The same for the certificate that a node was last issued."""
        found = self._list.find_recorded(Role.NODE, record)
        return None if found is None else str(found)

    def reload(self) -> None:
        """Read them again. Raises StateError; then nothing changes."""
        self._list = self._store.load()
