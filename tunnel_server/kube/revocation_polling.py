"""Asks for the revocations every few seconds, whatever their watch says: a revocation must not wait for it.

A watch on a connection that somebody in between has forgotten is silent for as long as one on which nothing
happens, and is noticed only when it should have ended.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from certs.revocations import REVOCATIONS_FILE
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.kube.state_layout import part_of

if TYPE_CHECKING:
    from tunnel_server.kube.state import ClusterState

log = logging.getLogger(__name__)

LOOK_EVERY = 3.0
"""Seconds; what the watch has not told by the second look, it has missed."""
_RENEW_EVERY = 30.0
"""Seconds between two attempts to begin the watches anew, which may take a while."""


async def poll_revocations(state: ClusterState) -> None:
    """Put the revocations into force until cancelled; never raises. That they are gone, its watch says."""
    part = part_of(REVOCATIONS_FILE)
    assert part is not None
    failures = FailureLog(log)
    behind = ""
    """The version that the watch had not told of at the last look."""
    renewed = -_RENEW_EVERY
    while True:
        await trio.sleep(LOOK_EVERY)
        try:
            stored = await state.cluster.call(partial(state.get, part.resource, part.name))
        except StateError as error:
            failures.failed(str(error), f"revocations are those that were known: {error}")
            continue
        failures.over()
        if stored is None or not state.cache.is_behind(part.resource, stored):
            behind = ""
            continue
        state.cache.put(part.resource, part.name, stored)
        now = trio.current_time()
        if behind and now - renewed >= _RENEW_EVERY:
            log.warning("the watches of %s are silent, and have missed something: they begin anew", state)
            state.cache.renew()
            renewed = now
        behind = stored.version
