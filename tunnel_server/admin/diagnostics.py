"""What the server knows of one node, gathered for `tunnelctl doctor`; changes nothing."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from certs.identity import Identity, Role
from certs.validity import BACK_DATED
from tunnel_server.admin.diagnosis_views import (
    AddressView,
    ClaimantView,
    DiagnosisView,
    HandshakeView,
    LinkEndView,
    ProbeView,
    TokenView,
)
from tunnel_server.admin.probe import probe
from tunnel_server.calls import Target

if TYPE_CHECKING:
    from certs.addresses import IPAddress
    from certs.nodes import NodeRecord, NodeStore
    from certs.tokens import TokenRecord, TokenStore
    from tunnel_server.admin.views import NodeView
    from tunnel_server.attempts import Attempts
    from tunnel_server.calls import Calls
    from tunnel_server.intercept.interception import Interception
    from tunnel_server.overview import Overview
    from tunnel_server.registry import Node, Registry
    from tunnel_server.revocation import Revocations

PATIENCE = 5.0
"""Seconds that a connected agent gets to answer a PING. Over a bad mobile network a second or two pass."""
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
        attempts: Attempts,
    ) -> None:
        self._registry = registry
        self._overview = overview
        self._nodes = nodes
        self._tokens = tokens
        self._interception = interception
        self._calls = calls
        self._domain = domain
        self._revocations = revocations
        self._attempts = attempts

    async def diagnose(self, name: str) -> DiagnosisView:
        """Return what is known of `name`; raises StateError for damaged files.

        An agent that is connected is asked for life first, which takes `PATIENCE` seconds if it shows none.
        """
        record, tokens = await trio.to_thread.run_sync(self._read, name)
        node = self._registry.nodes.get(name)
        answers = await node.agent.answers(PATIENCE) if node is not None and node.agent is not None else None
        status = self._overview.status()
        view = DiagnosisView(
            name=name,
            server_version=status.version,
            server_time=datetime.now(UTC),
            uptime_seconds=status.uptime_seconds,
            known_names=() if node is not None else tuple(sorted(self._registry.nodes))[:_NAMES_TOLD],
            tokens=tokens,
            problems=status.mapping_problems,
            certificate_begins=record.issued - BACK_DATED if record and record.issued else None,
            certificate_expires=record.expires if record else None,
            certificate_revoked=self._revoked(record) if record else "",
            interception=status.interception,
            mappings=status.mappings,
        )
        if node is None:
            return view
        view = replace(view, node=self._view(name), addresses=self._addresses(node, record))
        return self._with_life(view, node, answers=answers)

    def _with_life(self, view: DiagnosisView, node: Node, *, answers: bool | None) -> DiagnosisView:
        end = self._attempts.last_end(node.name)
        if end is not None:
            view = replace(view, last_end=LinkEndView(time=end.when, host=end.host, reason=end.reason))
        if node.agent is None or not node.agent.links:
            broken = self._attempts.broken_since(end)
            if broken is not None:
                shown = HandshakeView(time=broken.when, host=broken.host, alert=broken.alert.value)
                view = replace(view, broken_handshake=shown)
            return view
        newest = max(node.agent.links.values(), key=lambda link: link.connection.last_received).connection
        silent = trio.current_time() - newest.last_received
        *_, latest = node.agent.links.values()  # in the order in which they were made
        ahead = latest.clock_ahead
        return replace(
            view,
            answers=answers,
            patience_seconds=PATIENCE,
            silent_seconds=round(silent, 2),
            clock_ahead_seconds=None if ahead is None else round(ahead, 1),
            gives_up_seconds=round(max(0.0, newest.limits.silence_limit - silent), 2),
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

    def _addresses(self, node: Node, record: NodeRecord | None) -> tuple[AddressView, ...]:
        captured: frozenset[object] = frozenset()
        refused: dict[object, str] = {}
        if self._interception is not None:
            now = self._interception.statistics()
            captured = frozenset(now.addresses)
            refused = {each.address: each.reason for each in now.refused}
        named = node.addresses | (frozenset(record.addresses) if record else frozenset())
        return tuple(
            AddressView(
                address=str(address),
                held=address in node.addresses,
                captured=address in captured,
                routed=_routed(address),
                claimants=tuple(
                    self._claimant(each)
                    for each in sorted(self._registry.holders(address), key=lambda each: each.name)
                    if each is not node
                ),
                refusal=self._forbidden(node.name, address) or refused.get(address, ""),
            )
            for address in sorted(named, key=lambda each: (each.version, each.packed))
        )

    def _forbidden(self, name: str, address: IPAddress) -> str:
        why = self._registry.claims.rules.refusal(name, address) or ""
        # "ADDRESS is REASON: remedy"
        return why.removeprefix(f"{address} is ").partition(": ")[0]

    def _claimant(self, node: Node) -> ClaimantView:
        view = self._view(node.name)
        assert view is not None
        return ClaimantView(
            name=node.name, connected=view.connected, away_since=None if view.connected else view.since
        )


def _token(record: TokenRecord, now: datetime) -> TokenView:
    return TokenView(
        id=record.id,
        state=record.state(now).value,
        created=record.created,
        expires=record.expires,
        used=record.used,
    )


def _routed(address: IPAddress) -> bool:
    """Whether this host has a route: connecting a datagram socket asks for one, and sends nothing."""
    family = socket.AF_INET if isinstance(address, ipaddress.IPv4Address) else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((str(address), _ANY_PORT))
        except OSError:
            return False
    return True
