"""The parts of a server: which there are, what each is told of the others, and one configuration for all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from certs.server_state import server_names
from tunnel_daemon.logs import configure_logging
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.attempts import Attempts
from tunnel_server.audit import Audit
from tunnel_server.calls import Calls
from tunnel_server.capturing import Capturing
from tunnel_server.entrances import Entrances
from tunnel_server.former_servers import FormerServers
from tunnel_server.identity import ServerIdentity
from tunnel_server.intercept_settings import intercept_config
from tunnel_server.known_nodes import KnownNodes
from tunnel_server.links import Links
from tunnel_server.listener import TunnelListener
from tunnel_server.mappings import PortMappings
from tunnel_server.metrics import Metrics
from tunnel_server.public_api import PublicApi
from tunnel_server.registry import Registry
from tunnel_server.state_place import StatePlace
from tunnel_wire import __version__, link_tls
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.hello import new_id
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from certs.addresses import IPAddress
    from tunnel_server.attestor import Attestor
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.following import Following
    from tunnel_server.port_lists import PortLists


class Assembly:
    """All of them, made and not started yet."""

    def __init__(self, config: ServerConfig, *, replacing: bool) -> None:
        """Read the state; `replacing` if the server takes over from another.

        Raises StateError, MappingError, ssl.SSLError, each in one line for the operator.
        """
        self.config = config
        self._replacing = replacing
        self.place = StatePlace(config)
        self.state = self.place.state
        self.identity = ServerIdentity(self.state, log_secrets=not config.openssl_only)
        if not config.openssl_only:
            link_tls.load()  # at once: some agent will have bulk, and the authority has most of it in memory
        self._certified = server_names(self.state).hosts
        self._announced: list[str] = []
        lists = config.port_lists()
        self._configuring = trio.Lock()
        self.mappings = PortMappings(
            self.state, lists.captured, insecure_port=config.insecure_port, secure_port=config.secure_port
        )
        self.capturing = Capturing(self.mappings, lists)
        self.metrics = Metrics(__version__)
        self.audit = Audit(config.audit_log) if config.audit_log else None
        limits = WireLimits(
            max_streams=config.limits.streams_per_session,
            resume_grace=config.limits.resume_grace,
            resume_grace_pooled=config.limits.resume_grace_pooled,
        )
        self.registry = Registry(
            edge_networks=config.edge_networks,
            budget=Budget(config.limits.memory_budget),
            pool=SegmentPool(),
            limits=limits,
            links_per_node=config.limits.links_per_node,
            on_addresses=self._addresses_changed,
        )
        self.registry.claims.rules.pins = config.pins()
        self.former = FormerServers()
        self.following = self._follow(self.place.cluster) if self.place.cluster else None
        if self.following:
            self.following.on_nodes = self.identity.acceptance.lives.learn
        self.calls = Calls(
            self.metrics,
            self.registry,
            open_timeout=config.limits.open_timeout,
            away_wait=config.limits.away_wait,
            limit=config.limits.calls,
            audit=self.audit,
        )
        self.instance = new_id()
        self.attempts = Attempts()
        domain, acceptance = self.identity.authority.domain, self.identity.acceptance
        self.links = Links(
            self.registry,
            domain=domain,
            instance=self.instance,
            version=__version__,
            limits=limits,
            acceptance=acceptance,
            attempts=self.attempts,
        )
        self.api = PublicApi(
            self.state,
            self.identity,
            edge_networks=config.edge_networks,
            node_life=config.node_life(),
            servers=self._servers,
            on_issued=self._learn,
            on_join_ended=self.metrics.join_ended,
            attestor=_attestor(self.place.cluster, config) if self.place.cluster else None,
        )
        self.admin_users = SocketUsers(config.admin_uids)
        self.entrances = Entrances(config, self.registry, self.calls, domain, acceptance)
        self.listener = TunnelListener(
            self.identity.context,
            self.links,
            self.api.handle,
            self.metrics,
            handshakes=config.limits.handshakes_in_flight,
            handshake_timeout=config.limits.handshake_timeout,
            connect=self.entrances.connect,
            attempts=self.attempts,
        )
        self.identity.on_change.append(self._identity_changed)
        self.capturing.serve(self.registry, self.calls, self.entrances.transparent)
        self.known = KnownNodes(
            self.api.enrolment.nodes,
            self.registry,
            self.identity.revocations,
            accepted=self.links.accepted,
            look=self.identity.reload_revocations,
        )
        self.identity.on_revocations.append(self.known.revocations_changed)
        self.known.load()

    def _addresses_changed(self) -> None:
        self.capturing.addresses_changed()
        if self.following:
            self.following.changed()  # for what it tells of an address that two claim now

    def _follow(self, cluster: Cluster) -> Following:
        from tunnel_server.kube.following import Following

        return Following(
            cluster,
            self.config,
            self.registry,
            self.metrics,
            self._ports_changed,
            replacing=self._replacing,
        )

    def _port_lists(self, config: ServerConfig) -> PortLists:
        return self.following.port_lists(config) if self.following else config.port_lists()

    async def _ports_changed(self) -> None:
        """The cluster says other ports. Raises InterceptUnavailable, with nothing changed."""
        async with self._configuring:
            config = self.config
            await self.capturing.configure(self._port_lists(config), intercept_config(config))

    def _learn(self, node: str, addresses: tuple[IPAddress, ...]) -> None:
        self.registry.learn(node, addresses)

    def _identity_changed(self) -> None:
        self.listener.context = self.identity.context
        self._certified = server_names(self.state).hosts

    def _servers(self) -> list[str]:
        """Where agents are told to dial: nowhere that this server's certificate is only about to name."""
        config = self.config
        if self.place.certifies(self._certified):
            self._announced = [str(each) for each in config.server_addresses] or [
                format_endpoint(host, config.tunnel_port) for host in self._certified
            ]
        return self._announced

    async def reconfigure(self, config: ServerConfig) -> None:
        """Put a changed configuration into force, or raise with nothing changed: see `Reloader`."""
        async with self._configuring:
            await self._reconfigure(config)

    async def _reconfigure(self, config: ServerConfig) -> None:
        prepared = await self.entrances.prepare(config)
        try:
            await self.capturing.configure(self._port_lists(config), intercept_config(config))
        except BaseException:
            self.entrances.give_up(prepared)
            raise
        # Nothing from here on can fail.
        self.entrances.change(config, prepared)
        self.admin_users.change(config.admin_uids)
        self.config = config
        self.calls.limit = config.limits.calls
        self.calls.open_timeout = config.limits.open_timeout
        self.calls.away_wait = config.limits.away_wait
        self.registry.budget.total = config.limits.memory_budget
        self.registry.links_per_node = config.limits.links_per_node
        self.place.configure(config)
        self.api.configure(config.edge_networks, config.node_life())
        rules = self.registry.claims.rules
        rules.networks, rules.pins = config.edge_networks, config.pins()
        self.registry.review()
        if self.following:
            self.following.configure(config)
        configure_logging(config.log_level, config.log_format)


def _attestor(cluster: Cluster, config: ServerConfig) -> Attestor:
    # The client for a cluster costs memory: it is loaded only where there is one.
    from tunnel_server.kube.attestation import PodAttestor

    return PodAttestor(cluster, config.kubernetes)
