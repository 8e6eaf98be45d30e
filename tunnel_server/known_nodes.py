"""The nodes that the server's state knows, and the registry with them.

A known node's addresses are captured while it is away. One whose last certificate is revoked stays known, and
holds no address: another machine may have come in its place. It holds them again when the revocation is
undone, or when it links with a later certificate.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.admin.views import ForgottenView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from certs.nodes import NodeRecord, NodeStore
    from tunnel_server.agent_session import AgentLink
    from tunnel_server.registry import Node, Registry
    from tunnel_server.revocation import Revocations

log = logging.getLogger(__name__)

_RETRY = 2.0
"""Seconds until what could not be read is read again."""
_LEAVING = 5.0
"""Seconds in which the links of a node that was revoked end: as a rule in a tenth, with a last word that
nobody takes in little more than one.
"""


class KnownNodes:
    """Keeps the registry in step with `nodes.json` and the revocations."""

    def __init__(
        self,
        store: NodeStore,
        registry: Registry,
        revocations: Revocations,
        *,
        accepted: Callable[[AgentLink], bool],
        look: Callable[[], object],
    ) -> None:
        """Take `accepted`, which says whether a link stands by a certificate that is good, and `look`, which
        puts what was revoked until now into force, and raises StateError.
        """
        self._store = store
        self._registry = registry
        self._revocations = revocations
        self._accepted = accepted
        self._look = look
        self._changed = trio.Event()
        self._forgotten = 0
        """How many, so that nobody brings one back by what was read before."""

    def load(self) -> None:
        """Know what the state knows. Blocks; raises StateError."""
        self.learn(self._store.load())

    async def read(self) -> Mapping[str, NodeRecord]:
        """Return the records for `learn`; raises StateError."""
        return await trio.to_thread.run_sync(self._store.load)

    def learn(self, records: Mapping[str, NodeRecord]) -> None:
        """Take every node's addresses by the rules of this moment."""
        for record in records.values():
            if not self._withdrawn(record):
                self._registry.learn(record.name, record.addresses)

    def revocations_changed(self) -> None:
        """Others are revoked than before: `keep` will see to their addresses."""
        self._changed.set()

    async def keep(self) -> None:
        """Follow the revocations until cancelled."""
        failures = FailureLog(log, level=logging.ERROR)
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            forgotten = self._forgotten
            try:
                records = await self.read()
            except StateError as error:
                failures.failed(str(error), f"the addresses of revoked nodes stay as they were: {error}")
                self._changed.set()
                await trio.sleep(_RETRY)
                continue
            failures.over()
            if forgotten != self._forgotten:
                self._changed.set()
                continue
            for record in records.values():
                known = self._registry.nodes.get(record.name)
                if not self._withdrawn(record) and (known is None or known.revoked):
                    self._registry.learn(record.name, record.addresses)

    def _withdrawn(self, record: NodeRecord) -> bool:
        """Have a node that is revoked hold nothing; whether it is."""
        why = self._revocations.check_node(record)
        if why is None:
            return False
        node = self._registry.node(record.name)
        if node.agent is not None and any(map(self._accepted, node.agent.links.values())):
            return False  # it is here by another certificate than the last that we know of
        self._registry.withdraw(node, why, record.addresses)
        return True

    async def forget(self, name: str) -> ForgottenView:
        """Know no more of a node that will not come back.

        What it was revoked for stays. With a certificate that is good it is known again as soon as it links.
        Raises LookupError if no node has this name, ValueError if it is linked, StateError. One that was
        revoked just now is waited for. Cancelled, it is forgotten as a whole, or not at all.
        """
        unknown = f"no node is called {name}; see `tunnelctl nodes`"
        node = self._registry.nodes.get(name)
        if node is None:
            raise LookupError(unknown)
        if node.agent is not None:
            self._look()  # scripts revoke and forget in one breath
            await self._revoked_has_left(node)
        async with node.adopting:  # no link is taken meanwhile
            if self._registry.nodes.get(name) is not node:
                raise LookupError(unknown)
            if node.agent is not None:
                remotes = ", ".join(link.remote for link in node.agent.links.values())
                raise ValueError(
                    f"{name} is linked from {remotes}: stop its agent first, or `tunnelctl revoke {name}`"
                )
            with trio.CancelScope(shield=True):  # or the file and the registry might differ
                record = await trio.to_thread.run_sync(self._store.remove, name)
            addresses = node.addresses | frozenset(record.addresses if record else ())
            self._registry.forget(node)
            self._forgotten += 1
        log.info("%s is forgotten", name)
        view = ForgottenView(name=name, addresses=tuple(sorted(map(str, addresses))))
        if record is None:
            return view
        return replace(
            view,
            certificate_serial=record.serial,
            certificate_expires=record.expires,
            certificate_revoked=self._revocations.check_node(record) or "",
        )

    async def _revoked_has_left(self, node: Node) -> None:
        with trio.move_on_after(_LEAVING):
            while node.agent is not None and not any(  # noqa: ASYNC110 - one event for the rarest of waits
                map(self._accepted, node.agent.links.values())
            ):
                await trio.sleep(0.05)
