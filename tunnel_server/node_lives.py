"""Since when a cluster has each of its Nodes, and which certificates have ended with theirs.

An agent whose certificate is attested (`certs.attested`) speaks for the Node that was there when it was
issued. A Node that is removed takes it along; one that is made anew under the same name, perhaps another
machine, does not bring it back.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from certs.validity import moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from certs.nodes import NodeStore
    from tunnel_server.known_nodes import KnownNodes

log = logging.getLogger(__name__)

LOOK_EVERY = 60.0
"""Seconds between two looks for records of nodes that are gone."""


class NodeLives:
    """What the cluster said last; before it has said anything, no certificate has ended."""

    def __init__(self) -> None:
        self._since: Mapping[str, float] | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when another Node is there, or one is there no longer."""

    def learn(self, since: Mapping[str, float]) -> None:
        """Take the Nodes that there are, and since when, in seconds since the epoch."""
        if since != self._since:
            self._since = since
            self.on_change()

    def ended(self, name: str, issued: float) -> str | None:
        """Why an attested certificate of `name` that was issued then is good no longer, or None."""
        if self._since is None:
            return None
        since = self._since.get(name)
        if since is None:
            return f"the cluster has no Node {name} any more, for which its agent was attested"
        if issued <= since:
            return (
                f"the certificate of {name} was issued at {moment(issued)}, for a Node before the one that "
                f"the cluster has since {moment(since)}"
            )
        return None


async def forget_departed(lives: NodeLives, known: KnownNodes, store: NodeStore) -> None:
    """Forget attested nodes whose Node is gone, their records too, until cancelled. Never raises."""
    while True:
        await trio.sleep(LOOK_EVERY)
        try:
            records = await known.read()
            for record in records.values():
                if not record.attested or record.issued is None:
                    continue
                why = lives.ended(record.name, record.issued.timestamp())
                if why is None:
                    continue
                log.info("%s is forgotten: %s", record.name, why)
                try:
                    await known.forget(record.name)
                except LookupError:  # the registry knows it no longer
                    await trio.to_thread.run_sync(store.remove, record.name)
                except ValueError:
                    continue  # linked, by a later certificate
        except StateError as error:
            log.warning("nodes that the cluster has no longer are not forgotten yet: %s", error)
