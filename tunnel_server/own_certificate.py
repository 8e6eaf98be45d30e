"""The server's own certificate is issued anew before it expires; agents notice nothing, its key stays."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from certs.server_state import Initialised, ServerNames, initialise

if TYPE_CHECKING:
    from collections.abc import Callable

    from certs.state import State

log = logging.getLogger(__name__)

LOOK_EVERY = 3600.0
"""Seconds; what is issued is in use once `ServerIdentity.watch` has seen it."""


async def keep_certificate(state: State, names: Callable[[], ServerNames] = ServerNames) -> None:
    """Look at the certificate until cancelled. One that cannot be issued is told, each time.

    It shall say what `names` returns, or, if that is nothing, what it says.
    """
    while True:
        try:
            done = await trio.to_thread.run_sync(partial(_look_after, state, names()))
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


def _look_after(state: State, names: ServerNames) -> Initialised:
    if not names:
        return initialise(state)
    return initialise(state, addresses=names.addresses, dns_names=names.dns_names)
