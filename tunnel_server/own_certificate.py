"""The server's own certificate is issued anew before it expires; agents notice nothing, its key stays."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from certs.server_state import Initialised, ServerNames, initialise
from tunnel_daemon.backoff import full_jitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from certs.state import State

log = logging.getLogger(__name__)

LOOK_EVERY = 3600.0
"""Seconds; what is issued is in use once `ServerIdentity.watch` has seen it."""
_BACKOFF = (5.0, 600.0)
"""Seconds, the first and the longest time until one that could not be issued is tried again."""


class OwnCertificate:
    """Looks after the certificate in `state`."""

    def __init__(self, state: State, names: Callable[[], ServerNames] = ServerNames) -> None:
        """Take `names`, what it shall say; where that is nothing, it stays as it is."""
        self._state = state
        self._names = names
        self._changed = trio.Event()

    def changed(self) -> None:
        """It may have to say something else: look now."""
        self._changed.set()

    async def keep(self) -> None:
        """Look until cancelled. One that cannot be issued is told, each time, and soon tried again.

        It is only ever issued by the authority that there is: a server that runs makes no other.
        """
        delays = full_jitter(*_BACKOFF)
        while True:
            self._changed = trio.Event()
            wait = LOOK_EVERY
            try:
                done = await trio.to_thread.run_sync(_look_after, self._state, self._names())
            except (StateError, ValueError, OSError) as error:
                log.error("the server's certificate cannot be looked after: %s", error)  # noqa: TRY400
                wait = _BACKOFF[0] + next(delays)
            else:
                delays = full_jitter(*_BACKOFF)
                if done.issued:
                    log.info(
                        "the server's certificate is issued anew: %s",
                        done.issued,
                        extra={"expires": done.expires.isoformat(timespec="minutes")},
                    )
            with trio.move_on_after(wait):
                await self._changed.wait()


def _look_after(state: State, names: ServerNames) -> Initialised:
    if not names:
        return initialise(state, new=False)
    return initialise(state, addresses=names.addresses, dns_names=names.dns_names, new=False)
