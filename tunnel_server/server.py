"""The server process: reads its state, builds the parts, starts and stops them in order."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING, cast

import trio

from certs.addresses import format_endpoint
from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory, StateError
from certs.server_state import SERVER_CERTIFICATE, SERVER_KEY, server_names
from tunnel_daemon.http1 import HttpError
from tunnel_daemon.http_service import serve_http
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.signals import watch_signals
from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.server import serve_admin
from tunnel_server.admin.views import ListenerView
from tunnel_server.calls import Calls
from tunnel_server.frontends.fixed import serve_fixed
from tunnel_server.frontends.transparent import TransparentFrontend
from tunnel_server.intercept.config import InterceptConfig, InterceptUnavailable
from tunnel_server.join_api import JoinApi
from tunnel_server.links import Links
from tunnel_server.listener import TunnelListener, tls_context
from tunnel_server.mappings import PortMappings, parse_ports_pair
from tunnel_server.meta import meta_router
from tunnel_server.metrics import Metrics
from tunnel_server.overview import Overview
from tunnel_server.registry import Registry
from tunnel_wire import __version__
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.hello import new_id
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from certs.addresses import IPAddress
    from tunnel_server.config import FixedListener, ServerConfig
    from tunnel_server.intercept.interception import Interception

log = logging.getLogger(__name__)

_LOOPBACKS = ("127.0.0.1", "::1")
_FAREWELL = 0.2
"""Seconds between telling the agents that this server goes, and going."""
_GAUGES_EVERY = 2.0


class Server:
    """One tunnel-server. Creating it reads the state; `run` serves until it is told to stop."""

    def __init__(self, config: ServerConfig) -> None:
        """Raises StateError, MappingError, ssl.SSLError, each in one line for the operator."""
        self._config = config
        if not config.state_dir.exists():
            raise StateError(f"{config.state_dir} does not exist: run `tunnelctl init` first")
        state = StateDirectory(config.state_dir)
        authority = Authority.load(state)
        enrolment = Enrolment(state, authority, edge_networks=config.edge_networks)
        self._servers = [str(each) for each in config.server_addresses] or [
            format_endpoint(host, config.tunnel_port) for host in server_names(state).hosts
        ]
        configured, problems = parse_ports_pair(
            config.dnat_ports_pair, config.insecure_port, config.secure_port
        )
        self._mappings = PortMappings(
            state, configured, insecure_port=config.insecure_port, secure_port=config.secure_port
        )
        self._problems = (*problems, *self._mappings.problems)
        self._metrics = Metrics(__version__)
        limits = WireLimits(max_streams=config.limits.streams_per_session)
        self._registry = Registry(
            edge_networks=config.edge_networks,
            budget=Budget(config.limits.memory_budget),
            pool=SegmentPool(),
            limits=limits,
            links_per_node=config.limits.links_per_node,
            on_addresses=self._addresses_changed,
        )
        self._calls = Calls(self._metrics, open_timeout=config.limits.open_timeout, limit=config.limits.calls)
        self._instance = new_id()
        self._links = Links(
            self._registry,
            domain=authority.domain,
            instance=self._instance,
            version=__version__,
            limits=limits,
        )
        context = tls_context(state.path / SERVER_CERTIFICATE, state.path / SERVER_KEY, authority.pem)
        join_api = JoinApi(enrolment, servers=lambda: self._servers, on_issued=self._learn)
        self._listener = TunnelListener(
            context,
            self._links,
            join_api.handle,
            self._metrics,
            handshakes=config.limits.handshakes_in_flight,
            handshake_timeout=config.limits.handshake_timeout,
        )
        self._interception: Interception | None = None
        self._transparent = [
            TransparentFrontend(name, self._registry, self._calls, {}, config.caller_networks)
            for name in ("secure", "insecure")
        ]
        self._recapture = trio.Event()
        for record in enrolment.nodes.load().values():
            self._registry.learn(record.name, record.addresses)

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or cancellation; then tell the agents, reset open calls, leave no rule.

        Raises ProgramError and InterceptUnavailable where something that it needs cannot be had.
        """
        for problem in self._problems:
            log.warning("%s", problem)
        async with trio.open_nursery() as nursery:
            stop = trio.CancelScope()
            await nursery.start(watch_signals, stop)
            with stop:
                if self._config.intercept:
                    self._interception = _make_interception(self._config)
                    await nursery.start(self._interception.run)
                overview = self._overview()
                # In this order: who can ask sees only what works.
                await self._open_frontends(nursery, overview)
                await self._capture()
                nursery.start_soon(self._keep_capturing)
                await self._open_local_services(nursery, overview)
                await self._open_tunnel(nursery, overview)
                log.info("ready", extra={"version": __version__, "listeners": len(overview.listeners)})
                await trio.sleep_forever()
            self._links.drain("the server is stopping")
            await trio.sleep(_FAREWELL)
            nursery.cancel_scope.cancel()
        log.info("stopped")

    def _overview(self) -> Overview:
        return Overview(
            version=__version__,
            instance=self._instance,
            registry=self._registry,
            calls=self._calls,
            mappings=self._mappings,
            interception=self._interception,
            metrics=self._metrics,
            problems=self._problems,
        )

    async def _open_frontends(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._config
        for entry in config.listen:
            for listener in await open_tcp_listeners([entry.host], entry.port, setting="listen"):
                overview.listeners.append(_listener_view("fixed", listener, entry))
                nursery.start_soon(serve_fixed, listener, entry, self._registry, self._calls)
        if not config.intercept:
            return
        hosts = [*_LOOPBACKS, *(str(address) for address in config.prerouting_address)]
        for frontend, port in zip(self._transparent, (config.secure_port, config.insecure_port), strict=True):
            for listener in await open_tcp_listeners(
                filter(_speaks, hosts), port, setting=f"{frontend.name}-port"
            ):
                overview.listeners.append(_listener_view(frontend.name, listener))
                nursery.start_soon(frontend.serve, listener)

    async def _open_local_services(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._config
        meta = await open_tcp_listeners([str(config.meta_address)], config.meta_port, setting="meta-port")
        overview.listeners += [_listener_view("meta", listener) for listener in meta]
        nursery.start_soon(serve_http, meta, meta_router(self._metrics, overview.checks))
        nursery.start_soon(_keep_gauges, overview)
        sources = AdminSources(
            nodes=overview.nodes,
            status=overview.status,
            mappings=self._mappings,
            mapping_views=overview.mappings,
            changed=self._mappings_changed,
            default_listener_port=config.insecure_port,
        )

        async def admin(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_admin(
                config.admin_socket, sources, admin_uids=config.admin_uids, task_status=task_status
            )

        await nursery.start(admin)

    async def _open_tunnel(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._config
        listeners = await open_tcp_listeners(
            map(str, config.bind_address), config.tunnel_port, setting="tunnel-port"
        )
        overview.listeners += [_listener_view("tunnel", listener) for listener in listeners]
        nursery.start_soon(self._listener.serve, listeners)

    def _learn(self, node: str, addresses: tuple[IPAddress, ...]) -> None:
        self._registry.learn(node, addresses)

    # --- what is captured -------------------------------------------------------------------------

    def _addresses_changed(self) -> None:
        self._recapture.set()

    async def _keep_capturing(self) -> None:
        while True:
            await self._recapture.wait()
            self._recapture = trio.Event()
            try:
                await self._capture()
            except InterceptUnavailable as exc:
                log.error("the captured addresses stay as they were: %s", exc)  # noqa: TRY400 - no traceback

    async def _mappings_changed(self) -> None:
        try:
            await self._capture()
        except InterceptUnavailable as exc:
            raise HttpError(500, f"the mapping is kept, but is not in force: {exc}") from None

    async def _capture(self) -> None:
        """Put the addresses and ports that are known now into force."""
        mappings = self._mappings.effective()
        for frontend in self._transparent:
            frontend.mappings = mappings
        if self._interception is not None:
            await self._interception.apply(self._registry.addresses(), mappings)


def _make_interception(config: ServerConfig) -> Interception:
    # pyroute2 costs memory: it is loaded only where it is used.
    from tunnel_server.intercept.interception import Interception

    by_version = {address.version: address for address in config.prerouting_address}
    return Interception(
        InterceptConfig(
            caller_networks=config.caller_networks,
            prerouting_address4=cast("IPv4Address | None", by_version.get(4)),
            prerouting_address6=cast("IPv6Address | None", by_version.get(6)),
        )
    )


def _speaks(host: str) -> bool:
    """Whether this host has the address: a container may lack ::1."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as sock:
        try:
            sock.bind((host, 0))
        except OSError:
            return False
    return True


async def _keep_gauges(overview: Overview) -> None:
    while True:
        overview.count()
        await trio.sleep(_GAUGES_EVERY)


def _listener_view(
    name: str, listener: trio.SocketListener, entry: FixedListener | None = None
) -> ListenerView:
    host, port = listener.socket.getsockname()[:2]
    target = f"{entry.node}:{entry.target_port}" if entry else None
    return ListenerView(name=name, address=format_endpoint(host, port), target=target)
