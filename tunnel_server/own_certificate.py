"""The server's own certificate is issued anew before it expires; agents notice nothing, its key stays."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from certs.server_state import initialise

if TYPE_CHECKING:
    from certs.state import State

log = logging.getLogger(__name__)

LOOK_EVERY = 3600.0
"""Seconds; what is issued is in use once `ServerIdentity.watch` has seen it."""


async def keep_certificate(state: State) -> None:
    """Look at the certificate until cancelled. One that cannot be issued is told, each time."""
    while True:
        try:
            done = await trio.to_thread.run_sync(lambda: initialise(state))
        except (StateError, ValueError, OSError) as error:
            log.error("the server's certificate cannot be looked after: %s", error)  # noqa: TRY400
        else:
            if done.issued:
                log.info(
                    "the server's certificate is issued anew: %s",
                    done.issued,
                    extra={"expires": done.expires.isoformat(timespec="minutes")},
                )
        await trio.sleep(LOOK_EVERY)
