"""The running agent: supervisor, dialer and health in one tree of tasks."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import TYPE_CHECKING

import trio

from tunnel_agent.allow_list import AllowList
from tunnel_agent.credentials import load_credentials
from tunnel_agent.dialer import Dialer
from tunnel_agent.health import serve_health
from tunnel_agent.kept_names import keep_names, load_names
from tunnel_agent.renewal import Renewal
from tunnel_agent.resolve import Resolver
from tunnel_agent.server_names import ServerNames
from tunnel_agent.status import AgentStatus
from tunnel_agent.supervisor import Supervisor
from tunnel_daemon.descriptors import raise_open_files
from tunnel_daemon.logs import configure_logging
from tunnel_daemon.reloading import Reloader
from tunnel_daemon.signals import watch_signals

if TYPE_CHECKING:
    from tunnel_agent.attestation import Attestation
    from tunnel_agent.config import AgentConfig
    from tunnel_daemon.reloading import Source

log = logging.getLogger(__name__)


async def run_agent(config: AgentConfig, version: str, source: Source[AgentConfig]) -> None:
    """Run until SIGTERM or SIGINT.

    Raises CredentialsError if this machine has not joined, and StateError if one that is to be attested has
    no place for its identity.
    What `source` last read is `config`; it is read again at SIGHUP, and when its file changes.
    Ends everything at once: callers see a reset, never a clean end that would make half a body look whole.
    """
    by_machine = attested = config.service_account_token is not None
    status = AgentStatus(version, node=config.node_name)
    servers = config.servers
    if not attested:
        credentials = load_credentials(config.state_dir)
        status.node, servers = credentials.identity.name, servers or credentials.servers
        by_machine = credentials.attested  # by another agent here: one of a DaemonSet, before a static pod
        del credentials  # the supervisor loads them for itself: a TLS context is 60 KiB
    raise_open_files()
    log.info("tunnel-agent %s: node %s, servers %s", version, status.node, ", ".join(map(str, servers)))
    known = load_names(config.state_dir)
    names, resolver = ServerNames(known), Resolver()
    trio.socket.set_custom_hostname_resolver(names)
    status.names, status.lookups = names.describe, lambda: len(names.lookups) + len(resolver.lookups)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_health, status, config.health_address, config.health_port)
        dialer = Dialer(
            nursery,
            AllowList(config.allow),
            status,
            dial_timeout=config.dial_timeout,
            max_dials=config.max_dials_in_flight,
            by_machine=by_machine,
            lookup=resolver,
        )
        attestation = _attestation(config, status, names) if attested else None
        on_refused = attestation.refused if attestation else _nothing
        supervisor = Supervisor(config, dialer, status, os.environ, on_refused=on_refused)
        renewal = Renewal(
            config, status, on_renewed=supervisor.renewed, on_refused=on_refused, known=names.known
        )

        async def apply(changed: AgentConfig) -> None:
            dialer.configure(
                AllowList(changed.allow),
                dial_timeout=changed.dial_timeout,
                max_dials=changed.max_dials_in_flight,
            )
            supervisor.configure(changed)
            renewal.configure(changed)
            if attestation is not None:
                attestation.configure(changed)
            configure_logging(changed.log_level, changed.log_format)

        reloader = Reloader(config, source, apply)
        await nursery.start(partial(watch_signals, nursery.cancel_scope, on_hangup=reloader.reload))
        nursery.start_soon(reloader.watch)
        nursery.start_soon(renewal.run)
        nursery.start_soon(keep_names, config.state_dir, names, known)
        if attestation is not None:
            nursery.start_soon(attestation.run, supervisor.renewed)
            await attestation.ready.wait()
        await supervisor.run()


def _attestation(config: AgentConfig, status: AgentStatus, names: ServerNames) -> Attestation:
    # Most agents have no use for it.
    from tunnel_agent.attestation import Attestation

    return Attestation(config, status, known=names.known)


def _nothing(_serial: str, _why: str) -> None:
    pass
