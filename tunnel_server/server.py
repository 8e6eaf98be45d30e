"""The server process: reads its state, builds the parts, starts and stops them in order."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.addresses import format_endpoint
from certs.files import StateError
from certs.server_state import server_names
from tunnel_daemon import inheritance
from tunnel_daemon.descriptors import raise_open_files
from tunnel_daemon.http_service import serve_http
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.logs import configure_logging
from tunnel_daemon.reloading import Reloader
from tunnel_daemon.signals import watch_signals
from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.diagnostics import Diagnostics
from tunnel_server.admin.server import serve_admin
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.attempts import Attempts
from tunnel_server.audit import Audit
from tunnel_server.calls import Calls
from tunnel_server.capturing import Capturing
from tunnel_server.entrances import Entrances
from tunnel_server.fixed_listeners import listener_view
from tunnel_server.former_servers import FormerServers, report
from tunnel_server.handover import Handover
from tunnel_server.identity import ServerIdentity
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.intercept_settings import intercept_config, make_interception
from tunnel_server.known_nodes import KnownNodes
from tunnel_server.leaving import leave
from tunnel_server.links import Links
from tunnel_server.listener import TunnelListener
from tunnel_server.mappings import PortMappings
from tunnel_server.meta import meta_router
from tunnel_server.metrics import Metrics
from tunnel_server.node_lives import forget_departed
from tunnel_server.overview import Overview
from tunnel_server.public_api import PublicApi
from tunnel_server.registry import Registry
from tunnel_server.state_place import StatePlace
from tunnel_server.successor import start_successor
from tunnel_wire import __version__
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.hello import new_id
from tunnel_wire.limits import WireLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from certs.addresses import IPAddress
    from tunnel_daemon.reloading import Source
    from tunnel_server.attestor import Attestor
    from tunnel_server.config import ServerConfig
    from tunnel_server.intercept.interception import Interception
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.following import Following
    from tunnel_server.port_lists import PortLists
    from tunnel_server.takeover import Takeover

log = logging.getLogger(__name__)

_GAUGES_EVERY = 2.0
_LINKS_A_SECOND = 100
"""By which agents are sure to link here, after the old server has told them to."""
_REPLACED_QUIET, _STOPPED_QUIET = 10.0, 1.0
"""Seconds without a byte after which a leaving server gives up connections that many requests share: nobody
waits for a server that was replaced, and everybody for one that is stopped to be started again."""


class Server:
    """One tunnel-server. Creating it reads the state; `run` serves until it is told to stop."""

    def __init__(
        self,
        config: ServerConfig,
        source: Source[ServerConfig] | None = None,
        takeover: Takeover | None = None,
    ) -> None:
        """Take the configuration, where it is read again when it changes, and what is taken over, if any.

        Raises StateError, MappingError, ssl.SSLError, each in one line for the operator.
        """
        self._config = config
        self._takeover = takeover
        self._place = StatePlace(config)
        self._state = self._place.state
        self._identity = ServerIdentity(self._state)
        self._certified = server_names(self._state).hosts
        self._announced: list[str] = []
        lists = config.port_lists()
        self._configuring = trio.Lock()
        self._mappings = PortMappings(
            self._state, lists.captured, insecure_port=config.insecure_port, secure_port=config.secure_port
        )
        self._capturing = Capturing(self._mappings, lists)
        self._interception: Interception | None = None
        refusals = (InterceptUnavailable, StateError)
        self._reloader = Reloader(config, source, self._apply, refusals=refusals) if source else None
        self._metrics = Metrics(__version__)
        self._audit = Audit(config.audit_log) if config.audit_log else None
        limits = WireLimits(
            max_streams=config.limits.streams_per_session,
            resume_grace=config.limits.resume_grace,
            resume_grace_pooled=config.limits.resume_grace_pooled,
        )
        self._registry = Registry(
            edge_networks=config.edge_networks,
            budget=Budget(config.limits.memory_budget),
            pool=SegmentPool(),
            limits=limits,
            links_per_node=config.limits.links_per_node,
            on_addresses=self._addresses_changed,
        )
        self._registry.claims.rules.pins = config.pins()
        self._former = FormerServers()
        self._handover = Handover(config.admin_socket, self._capturing, self._linked, self._former)
        self._following = self._follow(self._place.cluster) if self._place.cluster else None
        if self._following:
            self._following.on_nodes = self._identity.acceptance.lives.learn
        self._calls = Calls(
            self._metrics,
            self._registry,
            open_timeout=config.limits.open_timeout,
            away_wait=config.limits.away_wait,
            limit=config.limits.calls,
            audit=self._audit,
        )
        self._instance = new_id()
        self._attempts = Attempts()
        domain, acceptance = self._identity.authority.domain, self._identity.acceptance
        self._links = Links(
            self._registry,
            domain=domain,
            instance=self._instance,
            version=__version__,
            limits=limits,
            acceptance=acceptance,
            attempts=self._attempts,
        )
        self._api = PublicApi(
            self._state,
            self._identity,
            edge_networks=config.edge_networks,
            node_life=config.node_life(),
            servers=self._servers,
            on_issued=self._learn,
            on_join_ended=self._metrics.join_ended,
            attestor=_attestor(self._place.cluster, config) if self._place.cluster else None,
        )
        self._admin_users = SocketUsers(config.admin_uids)
        self._entrances = Entrances(config, self._registry, self._calls, domain, acceptance)
        self._listener = TunnelListener(
            self._identity.context,
            self._links,
            self._api.handle,
            self._metrics,
            handshakes=config.limits.handshakes_in_flight,
            handshake_timeout=config.limits.handshake_timeout,
            connect=self._entrances.connect,
            attempts=self._attempts,
        )
        self._identity.on_change.append(self._identity_changed)
        self._capturing.serve(self._registry, self._calls, self._entrances.transparent)
        self._known = KnownNodes(
            self._api.enrolment.nodes,
            self._registry,
            self._identity.revocations,
            accepted=self._links.accepted,
        )
        self._identity.on_revocations.append(self._known.revocations_changed)
        self._known.load()

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or cancellation, or until another server has taken over.

        Then tell the agents, give open calls a while to end and reset the rest, leave no rule.

        Raises ProgramError and InterceptUnavailable where something that it needs cannot be had.
        """
        raise_open_files()
        for problem in self._capturing.problems:
            log.warning("%s", problem)
        try:
            await self._run()
        finally:
            if self._audit:
                self._audit.close()
        log.info("stopped")

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            if self._audit:
                nursery.start_soon(self._audit.run)
            stop = trio.CancelScope()
            await nursery.start(
                partial(watch_signals, stop, on_hangup=self._hung_up, on_replace=start_successor)
            )
            with stop:
                takeover = self._takeover
                if self._config.intercept:
                    self._interception = make_interception(self._config, takeover.table if takeover else None)
                    await nursery.start(self._interception.run)
                overview = self._overview()
                # In this order: who can ask sees only what works.
                await self._entrances.open(nursery)
                if self._following:
                    await nursery.start(self._following.run)
                if not takeover:
                    await self._capture()
                await self._open_local_services(nursery, overview)
                await self._open_tunnel(nursery, overview)
                if takeover:
                    await self._finish_takeover(nursery, takeover)
                nursery.start_soon(self._capturing.keep)
                nursery.start_soon(self._known.keep)
                if self._following:
                    lives, nodes = self._identity.acceptance.lives, self._api.enrolment.nodes
                    nursery.start_soon(forget_departed, lives, self._known, nodes)
                nursery.start_soon(self._identity.watch)
                self._place.keep(nursery)
                if self._reloader:
                    nursery.start_soon(self._reloader.watch)
                await nursery.start(self._handover.serve)
                for place in inheritance.close_unclaimed():
                    log.info("%s is closed: nothing in the configuration listens there", place)
                log.info("ready", extra={"version": __version__, "listeners": len(overview.listeners())})
                await self._handover.done.wait()
                nursery.start_soon(self._report)
                limits = self._config.limits
                await self._leave("another server has taken over", limits.handover_timeout, _REPLACED_QUIET)
            if not self._handover.done.is_set():
                inheritance.close_listening(keep=("meta-port", "admin-socket"))
                with trio.CancelScope() as patience:
                    await nursery.start(watch_signals, patience)
                    await self._leave(
                        "the server is stopping", self._config.limits.drain_timeout, _STOPPED_QUIET
                    )
            nursery.cancel_scope.cancel()

    async def _capture(self) -> None:
        self._capturing.interception = self._interception
        await self._capturing.capture()

    async def _finish_takeover(self, nursery: trio.Nursery, takeover: Takeover) -> None:
        """All that can fail has not: from here on nobody else serves, and nothing may end this server."""
        await takeover.finish()
        linking = self._config.limits.away_wait + len(takeover.linked) / _LINKS_A_SECOND
        self._calls.expect(takeover.linked, linking)
        for former in takeover.former:
            nursery.start_soon(self._former.watch, former)
        if self._interception:
            self._interception.own()
        elif takeover.table:
            os.close(takeover.table.owner)  # and with it goes the table: this server does not capture
        # Changed over there while this server started.
        self._mappings.read_again()
        try:
            await self._capture()
        except InterceptUnavailable as exc:
            log.error("the captured addresses stay as they were: %s", exc)  # noqa: TRY400 - no traceback

    def _linked(self) -> list[str]:
        return [name for name, node in self._registry.nodes.items() if node.agent is not None]

    async def _report(self) -> None:
        assert self._handover.successor is not None
        reopen = self._audit.reopen if self._audit else lambda: None
        await report(self._handover.successor, lambda: self._calls.open, reopen)

    async def _leave(self, why: str, patience: float, quiet: float) -> None:
        requests = self._listener.requests
        await leave(
            self._calls, self._links, self._registry, requests, why=why, patience=patience, quiet=quiet
        )

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
            entrances=self._entrances.views,
        )

    def _problems(self) -> tuple[str, ...]:
        refused = self._reloader.problems if self._reloader else ()
        return (
            *self._capturing.problems,
            *(f"the configuration is not in force: {each}" for each in refused),
        )

    async def _open_local_services(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._config
        meta = await open_tcp_listeners([str(config.meta_address)], config.meta_port, setting="meta-port")
        overview.own += [listener_view("meta", listener) for listener in meta]
        nursery.start_soon(serve_http, meta, meta_router(self._metrics, overview.checks, self._notes))
        nursery.start_soon(self._keep_gauges, overview)
        sources = AdminSources(
            nodes=overview.nodes,
            forget=self._known.forget,
            status=lambda: replace(overview.status(), predecessors=self._former.views()),
            mappings=self._mappings,
            mapping_views=overview.mappings,
            changed=self._capturing.mappings_changed,
            default_listener_port=config.insecure_port,
            doctor=Diagnostics(
                registry=self._registry,
                overview=overview,
                nodes=self._api.enrolment.nodes,
                tokens=self._api.enrolment.tokens,
                interception=self._interception,
                calls=self._calls,
                domain=self._identity.authority.domain,
                revocations=self._identity.revocations,
                attempts=self._attempts,
            ),
        )

        async def admin(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_admin(config.admin_socket, sources, users=self._admin_users, task_status=task_status)

        await nursery.start(admin)

    async def _open_tunnel(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._config
        listeners = await open_tcp_listeners(
            map(str, config.bind_address), config.tunnel_port, setting="tunnel-port"
        )
        overview.own += [listener_view("tunnel", listener) for listener in listeners]
        nursery.start_soon(self._listener.serve, listeners)

    async def _keep_gauges(self, overview: Overview) -> None:
        while True:
            overview.count()
            self._place.count(self._metrics)
            if self._following:
                self._following.count()
            await trio.sleep(_GAUGES_EVERY)

    def _notes(self) -> Mapping[str, str]:
        return {**self._place.notes(), **(self._following.notes() if self._following else {})}

    def _addresses_changed(self) -> None:
        self._capturing.addresses_changed()
        if self._following:
            self._following.changed()  # for what it tells of an address that two claim now

    def _follow(self, cluster: Cluster) -> Following:
        from tunnel_server.kube.following import Following

        return Following(
            cluster,
            self._config,
            self._registry,
            self._metrics,
            self._ports_changed,
            replacing=self._takeover is not None,
        )

    def _port_lists(self, config: ServerConfig) -> PortLists:
        return self._following.port_lists(config) if self._following else config.port_lists()

    async def _ports_changed(self) -> None:
        """The cluster says other ports. Raises InterceptUnavailable, with nothing changed."""
        async with self._configuring:
            config = self._config
            await self._capturing.configure(self._port_lists(config), intercept_config(config))

    def _learn(self, node: str, addresses: tuple[IPAddress, ...]) -> None:
        self._registry.learn(node, addresses)

    def _identity_changed(self) -> None:
        self._listener.context = self._identity.context
        self._certified = server_names(self._state).hosts

    async def _hung_up(self) -> None:
        if self._audit:
            self._audit.reopen()
        await self._former.reopen_logs()
        if self._reloader:
            await self._reloader.reload()

    def _servers(self) -> list[str]:
        """Where agents are told to dial: nowhere that this server's certificate is only about to name."""
        config = self._config
        if self._place.certifies(self._certified):
            self._announced = [str(each) for each in config.server_addresses] or [
                format_endpoint(host, config.tunnel_port) for host in self._certified
            ]
        return self._announced

    async def _apply(self, config: ServerConfig) -> None:
        """Put a changed configuration into force, or raise with nothing changed: see `Reloader`."""
        if self._handover.done.is_set():
            return  # its successor does
        async with self._configuring:
            await self._reconfigure(config)

    async def _reconfigure(self, config: ServerConfig) -> None:
        prepared = await self._entrances.prepare(config)
        try:
            await self._capturing.configure(self._port_lists(config), intercept_config(config))
        except BaseException:
            self._entrances.give_up(prepared)
            raise
        # Nothing from here on can fail.
        self._entrances.change(config, prepared)
        self._admin_users.change(config.admin_uids)
        self._config = config
        self._calls.limit = config.limits.calls
        self._calls.open_timeout = config.limits.open_timeout
        self._calls.away_wait = config.limits.away_wait
        self._registry.budget.total = config.limits.memory_budget
        self._registry.links_per_node = config.limits.links_per_node
        self._place.configure(config)
        self._api.configure(config.edge_networks, config.node_life())
        rules = self._registry.claims.rules
        rules.networks, rules.pins = config.edge_networks, config.pins()
        self._registry.review()
        if self._following:
            self._following.configure(config)
        configure_logging(config.log_level, config.log_format)


def _attestor(cluster: Cluster, config: ServerConfig) -> Attestor:
    # The client for a cluster costs memory: it is loaded only where there is one.
    from tunnel_server.kube.attestation import PodAttestor

    return PodAttestor(cluster, config.kubernetes)
