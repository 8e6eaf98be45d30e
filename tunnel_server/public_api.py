"""The HTTPS API on the public port: joining, and what holders of certificates ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from certs.enrolment import Enrolment
from certs.renewal import Renewals
from tunnel_daemon.router import Router
from tunnel_server.identity_api import IdentityApi
from tunnel_server.join_api import JoinApi

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from certs.addresses import IPAddress, IPNetwork
    from certs.state import State
    from tunnel_daemon.http1 import Request, Response
    from tunnel_server.attestor import Attestor
    from tunnel_server.identity import ServerIdentity


class PublicApi:
    """A `Handler` that follows changes of the authority and of the configuration."""

    def __init__(
        self,
        state: State,
        identity: ServerIdentity,
        *,
        edge_networks: tuple[IPNetwork, ...],
        node_life: timedelta,
        servers: Callable[[], Sequence[str]],
        on_issued: Callable[[str, tuple[IPAddress, ...]], None],
        on_join_ended: Callable[[str], None] = lambda _outcome: None,
        attestor: Attestor | None = None,
    ) -> None:
        self._state = state
        self._identity = identity
        self._renewals = Renewals(state, identity.authority, node_life=node_life)
        identity_api = IdentityApi(
            self._renewals, identity.revocations, servers=servers, outlived=identity.acceptance.outlived
        )
        enrolment = self._enrolment(edge_networks, node_life)
        self._join = JoinApi(
            enrolment, servers=servers, on_issued=on_issued, on_ended=on_join_ended, attestor=attestor
        )
        self._router = Router({**self._join.routes, **identity_api.routes})
        identity.on_change.append(self._authority_changed)

    def configure(self, edge_networks: tuple[IPNetwork, ...], node_life: timedelta) -> None:
        """Let nodes join with addresses in these networks from now on, and issue certificates for so long."""
        self._join.enrolment = self._enrolment(edge_networks, node_life)
        self._renewals.node_life = node_life

    def _enrolment(self, edge_networks: tuple[IPNetwork, ...], node_life: timedelta) -> Enrolment:
        return Enrolment(
            self._state, self._identity.authority, edge_networks=edge_networks, node_life=node_life
        )

    @property
    def enrolment(self) -> Enrolment:
        """The desk where nodes join now."""
        return self._join.enrolment

    async def handle(self, request: Request) -> Response:
        """Answer one request; raises nothing of ours."""
        return await self._router(request)

    def _authority_changed(self) -> None:
        self.enrolment.authority = self._renewals.authority = self._identity.authority
