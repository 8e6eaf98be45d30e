"""The server process: starts its parts, stops them in order, and lets another take over."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from tunnel_daemon import inheritance
from tunnel_daemon.descriptors import raise_open_files
from tunnel_daemon.http_service import serve_http
from tunnel_daemon.listeners import open_tcp_listeners
from tunnel_daemon.reloading import Reloader
from tunnel_daemon.signals import watch_signals
from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.diagnostics import Diagnostics
from tunnel_server.admin.server import serve_admin
from tunnel_server.assembly import Assembly
from tunnel_server.fixed_listeners import listener_view
from tunnel_server.former_servers import report
from tunnel_server.handover import Handover
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.intercept_settings import make_interception
from tunnel_server.leaving import leave
from tunnel_server.meta import meta_router
from tunnel_server.node_lives import forget_departed
from tunnel_server.overview import Overview
from tunnel_server.successor import start_successor
from tunnel_wire import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunnel_daemon.reloading import Source
    from tunnel_server.config import ServerConfig
    from tunnel_server.intercept.interception import Interception
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
        self._parts = Assembly(config, replacing=takeover is not None)
        self._takeover = takeover
        self._interception: Interception | None = None
        refusals = (InterceptUnavailable, StateError)
        self._reloader = Reloader(config, source, self._apply, refusals=refusals) if source else None
        self._handover = Handover(
            config.admin_socket, self._parts.capturing, self._linked, self._parts.former
        )

    async def run(self) -> None:
        """Serve until SIGTERM, SIGINT or cancellation, or until another server has taken over.

        Then tell the agents, give open calls a while to end and reset the rest, leave no rule.

        Raises ProgramError and InterceptUnavailable where something that it needs cannot be had.
        """
        raise_open_files()
        for problem in self._parts.capturing.problems:
            log.warning("%s", problem)
        try:
            await self._run()
        finally:
            if self._parts.audit:
                self._parts.audit.close()
        log.info("stopped")

    async def _run(self) -> None:
        parts, takeover = self._parts, self._takeover
        async with trio.open_nursery() as nursery:
            if parts.audit:
                nursery.start_soon(parts.audit.run)
            stop = trio.CancelScope()
            await nursery.start(
                partial(watch_signals, stop, on_hangup=self._hung_up, on_replace=start_successor)
            )
            with stop:
                if parts.config.intercept:
                    self._interception = make_interception(parts.config, takeover.table if takeover else None)
                    await nursery.start(self._interception.run)
                overview = self._overview()
                # In this order: who can ask sees only what works.
                await parts.entrances.open(nursery)
                if parts.following:
                    await nursery.start(parts.following.run)
                if not takeover:
                    await self._capture()
                await self._open_local_services(nursery, overview)
                await self._open_tunnel(nursery, overview)
                if takeover:
                    await self._finish_takeover(nursery, takeover)
                nursery.start_soon(parts.capturing.keep)
                nursery.start_soon(parts.known.keep)
                if parts.following:
                    lives, nodes = parts.identity.acceptance.lives, parts.api.enrolment.nodes
                    nursery.start_soon(forget_departed, lives, parts.known, nodes)
                nursery.start_soon(parts.identity.watch)
                parts.place.keep(nursery)
                if self._reloader:
                    nursery.start_soon(self._reloader.watch)
                await nursery.start(self._handover.serve)
                for place in inheritance.close_unclaimed():
                    log.info("%s is closed: nothing in the configuration listens there", place)
                log.info("ready", extra={"version": __version__, "listeners": len(overview.listeners())})
                await self._handover.done.wait()
                nursery.start_soon(self._report)
                limits = parts.config.limits
                await self._leave("another server has taken over", limits.handover_timeout, _REPLACED_QUIET)
            if not self._handover.done.is_set():
                inheritance.close_listening(keep=("meta-port", "admin-socket"))
                with trio.CancelScope() as patience:
                    await nursery.start(watch_signals, patience)
                    await self._leave(
                        "the server is stopping", parts.config.limits.drain_timeout, _STOPPED_QUIET
                    )
            nursery.cancel_scope.cancel()

    async def _capture(self) -> None:
        self._parts.capturing.interception = self._interception
        await self._parts.capturing.capture()

    async def _finish_takeover(self, nursery: trio.Nursery, takeover: Takeover) -> None:
        """All that can fail has not: from here on nobody else serves, and nothing may end this server."""
        await takeover.finish()
        linking = self._parts.config.limits.away_wait + len(takeover.linked) / _LINKS_A_SECOND
        self._parts.calls.expect(takeover.linked, linking)
        for former in takeover.former:
            nursery.start_soon(self._parts.former.watch, former)
        if self._interception:
            self._interception.own()
        elif takeover.table:
            os.close(takeover.table.owner)  # and with it goes the table: this server does not capture
        # Changed over there while this server started.
        self._parts.mappings.read_again()
        try:
            await self._capture()
        except InterceptUnavailable as exc:
            log.error("the captured addresses stay as they were: %s", exc)  # noqa: TRY400 - no traceback

    def _linked(self) -> list[str]:
        return [name for name, node in self._parts.registry.nodes.items() if node.agent is not None]

    async def _report(self) -> None:
        assert self._handover.successor is not None
        reopen = self._parts.audit.reopen if self._parts.audit else lambda: None
        await report(self._handover.successor, lambda: self._parts.calls.open, reopen)

    async def _leave(self, why: str, patience: float, quiet: float) -> None:
        parts = self._parts
        await leave(
            parts.calls,
            parts.links,
            parts.registry,
            parts.listener.requests,
            why=why,
            patience=patience,
            quiet=quiet,
        )

    def _overview(self) -> Overview:
        parts = self._parts
        return Overview(
            version=__version__,
            instance=parts.instance,
            registry=parts.registry,
            calls=parts.calls,
            mappings=parts.mappings,
            interception=self._interception,
            metrics=parts.metrics,
            problems=self._problems,
            entrances=parts.entrances.views,
        )

    def _problems(self) -> tuple[str, ...]:
        refused = self._reloader.problems if self._reloader else ()
        return (
            *self._parts.capturing.problems,
            *(f"the configuration is not in force: {each}" for each in refused),
        )

    async def _open_local_services(self, nursery: trio.Nursery, overview: Overview) -> None:
        parts, config = self._parts, self._parts.config
        meta = await open_tcp_listeners([str(config.meta_address)], config.meta_port, setting="meta-port")
        overview.own += [listener_view("meta", listener) for listener in meta]
        nursery.start_soon(serve_http, meta, meta_router(parts.metrics, overview.checks, self._notes))
        nursery.start_soon(self._keep_gauges, overview)
        sources = AdminSources(
            nodes=overview.nodes,
            forget=parts.known.forget,
            status=lambda: replace(overview.status(), predecessors=parts.former.views()),
            mappings=parts.mappings,
            mapping_views=overview.mappings,
            changed=parts.capturing.mappings_changed,
            default_listener_port=config.insecure_port,
            doctor=Diagnostics(
                registry=parts.registry,
                overview=overview,
                nodes=parts.api.enrolment.nodes,
                tokens=parts.api.enrolment.tokens,
                interception=self._interception,
                calls=parts.calls,
                domain=parts.identity.authority.domain,
                revocations=parts.identity.revocations,
                attempts=parts.attempts,
            ),
        )

        async def admin(*, task_status: trio.TaskStatus[None]) -> None:
            await serve_admin(config.admin_socket, sources, users=parts.admin_users, task_status=task_status)

        await nursery.start(admin)

    async def _open_tunnel(self, nursery: trio.Nursery, overview: Overview) -> None:
        config = self._parts.config
        listeners = await open_tcp_listeners(
            map(str, config.bind_address), config.tunnel_port, setting="tunnel-port"
        )
        overview.own += [listener_view("tunnel", listener) for listener in listeners]
        nursery.start_soon(self._parts.listener.serve, listeners)

    async def _keep_gauges(self, overview: Overview) -> None:
        while True:
            overview.count()
            self._parts.former.count(self._parts.metrics)
            self._parts.place.count(self._parts.metrics)
            if self._parts.following:
                self._parts.following.count()
            await trio.sleep(_GAUGES_EVERY)

    def _notes(self) -> Mapping[str, str]:
        return {
            **self._parts.place.notes(),
            **(self._parts.following.notes() if self._parts.following else {}),
        }

    async def _hung_up(self) -> None:
        if self._parts.audit:
            self._parts.audit.reopen()
        await self._parts.former.reopen_logs()
        if self._reloader:
            await self._reloader.reload()

    async def _apply(self, config: ServerConfig) -> None:
        """Put a changed configuration into force, or raise with nothing changed: see `Reloader`."""
        if self._handover.done.is_set():
            return  # its successor does
        await self._parts.reconfigure(config)
