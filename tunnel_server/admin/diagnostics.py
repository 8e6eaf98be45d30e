"""What the server knows of one node, gathered for `tunnelctl doctor`; changes nothing."""

from __future__ import annotations

import ipaddress
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from certs.identity import Identity, Role
from tunnel_server.admin.probe import probe
from tunnel_server.admin.views import AddressView, DiagnosisView, NodeView, ProbeView, TokenView
from tunnel_server.calls import Target

if TYPE_CHECKING:
    from certs.addresses import IPAddress
    from certs.nodes import NodeRecord, NodeStore
    from certs.tokens import TokenRecord, TokenStore
    from tunnel_server.calls import Calls
    from tunnel_server.intercept.interception import Interception
    from tunnel_server.overview import Overview
    from tunnel_server.registry import Node, Registry
    from tunnel_server.revocation import Revocations

_NAMES_TOLD = 100
_ANY_PORT = 9


class Diagnostics:
    """A `Doctor` over the parts of a running server."""

    def __init__(
        self,
        *,
        registry: Registry,
        overview: Overview,
        nodes: NodeStore,
        tokens: TokenStore,
        interception: Interception | None,
        calls: Calls,
        domain: str,
        revocations: Revocations,
    ) -> None:
        self._registry = registry
        self._overview = overview
        self._nodes = nodes
        self._tokens = tokens
        self._interception = interception
        self._calls = calls
        self._domain = domain
        self._revocations = revocations

    async def diagnose(self, name: str) -> DiagnosisView:
        """Return what is known of `name`; raises StateError for damaged files."""
        record, tokens = await trio.to_thread.run_sync(self._read, name)
        status = self._overview.status()
        node = self._registry.nodes.get(name)
        return DiagnosisView(
            name=name,
            server_version=status.version,
            server_time=datetime.now(UTC),
            uptime_seconds=status.uptime_seconds,
            node=self._view(name) if node is not None else None,
            known_names=() if node is not None else tuple(sorted(self._registry.nodes))[:_NAMES_TOLD],
            tokens=tokens,
            certificate_expires=record.expires if record else None,
            certificate_revoked=self._revoked(record) if record else "",
            silent_seconds=_silence(node) if node is not None else None,
            addresses=self._addresses(node) if node is not None else (),
            interception=status.interception,
            mappings=status.mappings,
        )

    async def probe(self, name: str, host: str, port: int) -> ProbeView:
        """Have the node's agent dial what a call to `host`:`port` makes it dial, within a call's time."""
        node = self._registry.nodes.get(name)
        if node is not None:
            host = self._calls.dialled(Target(node, host, port))
        return await probe(self._registry, name, host, port, self._calls.open_timeout)

    def _read(self, name: str) -> tuple[NodeRecord | None, tuple[TokenView, ...]]:
        now = datetime.now(UTC)
        tokens = tuple(_token(each, now) for each in self._tokens.list() if each.node == name)
        return self._nodes.load().get(name), tokens

    def _revoked(self, record: NodeRecord) -> str:
        issued = record.issued.timestamp() if record.issued else None
        identity = Identity(self._domain, Role.NODE, record.name)
        return self._revocations.check(identity, record.serial, issued) or ""

    def _view(self, name: str) -> NodeView | None:
        return next((view for view in self._overview.nodes() if view.name == name), None)

    def _addresses(self, node: Node) -> tuple[AddressView, ...]:
        captured: frozenset[object] = frozenset()
        refused: dict[object, str] = {}
        if self._interception is not None:
            now = self._interception.statistics()
            captured = frozenset(now.addresses)
            refused = {each.address: each.reason for each in now.refused}
        return tuple(
            AddressView(
                address=str(address),
                captured=address in captured,
                routed=_routed(address),
                also_claimed_by=tuple(
                    sorted(each.name for each in self._registry.holders(address) if each is not node)
                ),
                refusal=refused.get(address, ""),
            )
            for address in sorted(node.addresses, key=lambda each: (each.version, each.packed))
        )


def _token(record: TokenRecord, now: datetime) -> TokenView:
    return TokenView(
        id=record.id,
        state=record.state(now).value,
        created=record.created,
        expires=record.expires,
        used=record.used,
    )


def _silence(node: Node) -> float | None:
    if node.agent is None or not node.agent.links:
        return None
    heard = max(link.connection.last_received for link in node.agent.links.values())
    return round(trio.current_time() - heard, 2)


def _routed(address: IPAddress) -> bool:
    """Whether this host has a route: connecting a datagram socket asks for one, and sends nothing."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address), _ANY_PORT))
        except OSError:
            return False
    return True
