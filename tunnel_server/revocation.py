"""Revocations in force: asked at each handshake, and felt at once by what is connected already."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from certs.revocations import REVOCATIONS_FILE, RevocationStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from certs.files import StateDirectory
    from certs.identity import Identity

log = logging.getLogger(__name__)


class Revocations:
    """What is revoked now. Nothing here waits; `reload` reads one file."""

    FILE = REVOCATIONS_FILE

    def __init__(self, state: StateDirectory) -> None:
        """Raises StateError: a server that does not know whom to refuse must not start."""
        self._store = RevocationStore(state)
        self._list = self._store.load()
        self._watched: dict[object, tuple[Mapping[str, object], Callable[[str], None]]] = {}

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

    @contextmanager
    def watch(self, certificate: Mapping[str, object], end: Callable[[str], None]) -> Iterator[None]:
        """Inside, `end(why)` is called once if `certificate` is revoked, in trio's thread: no waiting.

        It is called at once if that has happened since whoever asks has looked.
        """
        key = object()
        self._watched[key] = (certificate, end)
        if (why := self.check_certificate(certificate)) is not None:
            del self._watched[key]
            end(why)
        try:
            yield
        finally:
            self._watched.pop(key, None)

    def reload(self) -> None:
        """Read the file again, and end what it now revokes. Raises StateError; then nothing changes."""
        self._list = self._store.load()
        for key, (certificate, end) in list(self._watched.items()):
            why = self.check_certificate(certificate)
            # Whoever was told before may have ended this one too.
            if why is not None and key in self._watched:
                del self._watched[key]
                log.warning("a live connection ends: %s", why)
                end(why)
