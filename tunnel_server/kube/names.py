"""The ConfigMap by which CoreDNS answers with the tunnel's address where a node's name is asked for.

One key, `tunnel-nodes`, in the form of CoreDNS's `hosts` plugin and of /etc/hosts, as yurt-tunnel keeps it:
`ADDRESS<TAB>NODE`. An edge has the address of the Service in front of the listeners by name; any other Node
its own, since whoever resolves nodes so resolves all of them so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from certs.addresses import parse_address
from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.state_layout import LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from certs.addresses import IPAddress
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.nodes import Edges
    from tunnel_server.kube.resources import NamespacedName, Object

log = logging.getLogger(__name__)

KEY = "tunnel-nodes"
MANAGER = "edge-tunnel-names"
"""As which this fragment is applied: nothing else of ours is this manager's."""

_AGAIN = 600.0
"""Seconds after which it is written again, lest somebody has changed it."""
_BACKOFF = (1.0, 60.0)
_NOWHERE = "the Service that names lead to is not there, or has no address: nothing is written"


def read_service(item: Object) -> tuple[IPAddress, ...]:
    """The cluster addresses of a Service; none of one that has none."""
    spec = item.get("spec") or {}
    found: dict[IPAddress, None] = {}
    for text in spec.get("clusterIPs") or [spec.get("clusterIP") or ""]:
        try:
            found[parse_address(str(text))] = None
        except ValueError:
            continue  # "None"
    return tuple(found)


def fragment(nodes: Edges, service: Iterable[IPAddress]) -> str:
    """The lines, by name."""
    lines = [(name, str(address)) for name in nodes.edges for address in service]
    lines += [(name, str(facts.addresses[0])) for name, facts in nodes.others.items() if facts.addresses]
    return "".join(f"{address}\t{name}\n" for name, address in sorted(lines))


class NamesKeeper:
    """Keeps the ConfigMap, which it writes when it has to say something else, and now and then."""

    def __init__(self, cluster: Cluster, where: NamespacedName) -> None:
        self._cluster = cluster
        self._where = where
        self._text: str | None = None
        self._written: str | None = None
        self._nowhere = False
        self._failure = ""
        self._changed = trio.Event()
        self._log = FailureLog(log)

    @property
    def problem(self) -> str:
        """Why it is not what it should be; empty if it is."""
        return _NOWHERE if self._nowhere else self._failure

    def changed(self, nodes: Edges, service: tuple[IPAddress, ...]) -> None:
        """These are the Nodes now, and the addresses of the Service; without any, names lead nowhere."""
        self._nowhere = not service
        if not service:
            self._text = None
            return
        text = fragment(nodes, service)
        if text != self._text:
            self._text = text
            self._changed.set()

    async def run(self) -> None:
        """Write until cancelled. Never raises."""
        delays = full_jitter(*_BACKOFF)
        while True:
            with trio.move_on_after(_AGAIN):
                await self._changed.wait()
            self._changed = trio.Event()
            text = self._text
            if text is None:
                continue
            try:
                await self._cluster.call(lambda text=text: self._apply(text))  # type: ignore[misc]
            except ApiFailure as failure:
                self._failure = f"ConfigMap {self._where} is not written: {failure}"
                self._log.failed(str(failure), self._failure)
                self._changed.set()
                await trio.sleep(next(delays))
            else:
                if text != self._written:
                    log.info("ConfigMap %s has the names of %d nodes", self._where, text.count("\n"))
                self._written = text
                self._failure = ""
                self._log.over()
                delays = full_jitter(*_BACKOFF)

    def _apply(self, text: str) -> None:
        name, namespace = self._where.name, self._where.namespace
        fields = {"metadata": {"labels": LABELS}, "data": {KEY: text}}
        self._cluster.apply(CONFIG_MAPS, name, fields, namespace, manager=MANAGER)
