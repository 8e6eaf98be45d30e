"""The `tunnel-server` program."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from certs.files import StateError
from tunnel_daemon import inheritance
from tunnel_daemon.logs import configure_logging
from tunnel_daemon.program import report, run_program
from tunnel_daemon.reloading import Source
from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_aliases import read_aliases
from tunnel_daemon.settings_flags import OneLineParser
from tunnel_daemon.signals import ignore_hangups
from tunnel_server import check_config
from tunnel_server.config import DEFAULT_CONFIG, add_arguments, config_from
from tunnel_server.heap import set_survivors_aside
from tunnel_server.intercept import low_descriptor
from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.mappings import MappingError
from tunnel_server.yurt_flags import ALIASES
from tunnel_wire.build import version_line

if TYPE_CHECKING:
    from collections.abc import Sequence

log = logging.getLogger(__name__)

PROGRAM = "tunnel-server"
_DESCRIPTION = """\
The cloud end of the tunnel: agents on edge machines dial it, and callers reach every edge through it,
unmodified, at the address and port that they already use. `tunnelctl init` makes what it needs."""
_EPILOG = """\
`tunnel-server check-config [FILE]` checks a configuration and starts nothing.
Exit codes: 0 stopped in order, 1 failed, 2 wrong configuration or command line.
SIGTERM and SIGINT stop it: agents are told, open calls get a while to end, no rule is left behind; a second
one ends them at once. SIGHUP, or a change of its file, has it take the configuration again: whole, or not at
all."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until it is told to stop, or check a configuration; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["check-config"]:
        return check_config.main(f"{PROGRAM} check-config", words[1:])
    parser = OneLineParser(
        PROGRAM,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version_line(PROGRAM))
    parser.add_argument(
        "--take-over",
        action="store_true",
        help="take over from the server that runs with the same admin-socket, without refusing a caller; "
        "where none runs, start as ever",
    )
    add_arguments(parser)
    parsed = parser.parse_args(words)
    try:
        aliased = read_aliases(parsed, ALIASES)
        source = Source(parsed.config or DEFAULT_CONFIG, lambda: config_from(parsed, aliased))
        config = source.read()
    except SettingsError as exc:
        return report(PROGRAM, exc)
    ignore_hangups()
    low_descriptor.reserve()
    inheritance.take_from_service_manager(os.environ)
    configure_logging(config.log_level, config.log_format)
    for warning in aliased.warnings:
        log.warning("%s", warning)

    async def serve() -> None:
        from tunnel_server.server import Server
        from tunnel_server.takeover import take_over

        set_survivors_aside()
        takeover = take_over(config.admin_socket) if parsed.take_over else None
        await Server(config, source, takeover).run()

    return run_program(PROGRAM, serve, known=(StateError, MappingError, InterceptUnavailable))
