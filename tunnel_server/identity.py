"""The server's own certificate and the authority, as the state has them, and who is told when they change.

`tunnelctl` changes the state (`init`, `ca roll`, `revoke`), whether the server runs or not. A running server
looks twice a second, which costs next to nothing, so nothing has to reach it to take effect.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING

import trio

from certs.authority import CA_CERTIFICATE, CA_KEY, Authority
from certs.files import StateError
from certs.server_state import SERVER_CERTIFICATE, SERVER_KEY
from tunnel_daemon.descriptors import describe
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.acceptance import Acceptance
from tunnel_server.listener import tls_context
from tunnel_server.revocation import Revocations

if TYPE_CHECKING:
    from collections.abc import Callable

    from certs.state import State

log = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks."""

_FILES = (CA_CERTIFICATE, CA_KEY, SERVER_CERTIFICATE, SERVER_KEY)


class ServerIdentity:
    """Authority, public TLS context, revocations, and what is accepted by them, of one server."""

    def __init__(self, state: State, *, log_secrets: bool = False) -> None:
        """Read everything; raises StateError, ssl.SSLError, OSError. `log_secrets`: see `tls_context`."""
        self._state = state
        self._log_secrets = log_secrets
        self.revocations = Revocations(state)
        self.on_change: list[Callable[[], None]] = []
        """Called in trio's thread after `authority` and `context` were replaced."""
        self.on_revocations: list[Callable[[], None]] = []
        """Called in trio's thread after the revocations were read again."""
        # Versions are read first: what changes in between is seen at the next look.
        self._seen = state.version(*_FILES)
        self._seen_revocations = state.version(Revocations.FILE)
        self.authority, self.context = self._load()
        self.acceptance = Acceptance(self.revocations, self.authority)

    def reload_tls(self) -> bool:
        """Use what the state says from the next handshake on; whether anything had changed.

        Raises StateError, ssl.SSLError, OSError; then everything stays as it was.
        """
        found = self._state.version(*_FILES)
        if found == self._seen:
            return False
        self.authority, self.context = self._load()
        self._seen = found
        log.info(
            "the server's certificate and authority were read again",
            extra={"ca_hash": self.authority.hash, "roots": len(self.authority.roots)},
        )
        for told in self.on_change:
            told()
        self.acceptance.change_authority(self.authority)
        return True

    def reload_revocations(self) -> bool:
        """Put the revocations that are kept into force; whether they had changed. Raises StateError."""
        found = self._state.version(Revocations.FILE)
        if found == self._seen_revocations:
            return False
        self.revocations.reload()
        self._seen_revocations = found
        self.acceptance.look(changed=True)
        for told in self.on_revocations:
            told()
        return True

    async def watch(self) -> None:
        """Look at the state until cancelled. What cannot be used changes nothing, and is tried again: what
        stands in the way may be no more than a shortage.
        """
        failures = {
            reload: FailureLog(log, level=logging.ERROR)
            for reload in (self.reload_revocations, self.reload_tls)
        }
        while True:
            for reload, failed in failures.items():
                try:
                    reload()
                except (StateError, ssl.SSLError) as error:
                    failed.failed(str(error), f"what was in force stays in force: {error}")
                except OSError as error:
                    failed.failed(str(error), f"what was in force stays in force: {describe(error)}")
                else:
                    failed.over()
            self.acceptance.look()
            await trio.sleep(LOOK_EVERY)

    def _load(self) -> tuple[Authority, ssl.SSLContext]:
        authority = Authority.load(self._state)
        for name in (SERVER_CERTIFICATE, SERVER_KEY):
            if not self._state.exists(name):
                raise StateError(f"{self._state} has no {name}: `tunnelctl init` issues a certificate anew")
        context = tls_context(
            self._state.read(SERVER_CERTIFICATE),
            self._state.read(SERVER_KEY),
            authority.pem,
            clock_matters=False,
            log_secrets=self._log_secrets,
        )
        return authority, context
