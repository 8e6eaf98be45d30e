"""The command line: `tunnel-agent [run]`, `join`, the systemd service, and a container's directory."""

from __future__ import annotations

import linecache
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tunnel_agent.config import DEFAULT_CONFIG, AgentConfig
from tunnel_agent.yurt_flags import ALIASES, check_identity
from tunnel_daemon.command_line import plain_flags, settings_from_flags
from tunnel_daemon.logs import configure_logging
from tunnel_daemon.program import report, run_program
from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_aliases import Aliased, add_alias_flags, read_aliases
from tunnel_wire import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

log = logging.getLogger(__name__)

PROGRAM = "tunnel-agent"

_COMMANDS = {
    "join": "join a server, with the line of `tunnelctl token create`",
    "install-service": "run the agent as a systemd service, now and from every boot on",
    "uninstall-service": "stop the service and remove its unit",
    "prepare-state": "make the state directory, for an agent that runs as another user (root)",
}
"""Besides `run`. Their modules are loaded only for them: a running agent stays small."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, 1 for a failure, 2 for wrong use."""
    options = _parse(arguments)
    if getattr(options, "version", False):
        from tunnel_wire.build import version_line

        print(version_line(PROGRAM))  # noqa: T201
        return 0
    code: int = options.run(options)
    return code


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace | SimpleNamespace:
    # On its own: the parsers with all their flags are of no use to a running agent.
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in {"run", *_COMMANDS, "-h", "--help", "--version"}:
        words.insert(0, "run")
    if words[0] == "run":
        given = plain_flags(words[1:], AgentConfig, others=("server", "proxy"))
        if given is not None:
            return _plain(given)
    from tunnel_daemon.settings_flags import OneLineParser

    parser = OneLineParser(
        prog=PROGRAM, description="Dials out to a tunnel server, and makes this machine answer there."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser]
    subparsers = parser.add_subparsers(metavar="COMMAND")  # type: ignore[assignment]  # of OneLineParser
    run_parser = _add_run_parser(subparsers)
    if words[0] == "join":
        from tunnel_agent.join_command import add_join_parser

        add_join_parser(subparsers)
    elif words[0] == "prepare-state":
        from tunnel_agent.prepare_state import add_prepare_parser

        add_prepare_parser(subparsers)
    elif words[0] in _COMMANDS:
        from tunnel_agent.service_install import add_service_parsers

        add_service_parsers(subparsers)
    else:
        for command, line in _COMMANDS.items():
            subparsers.add_parser(command, help=line)
    # `run` on its own, so that it is its own flags that a mistyped one is compared with.
    return run_parser.parse_args(words[1:]) if words[0] == "run" else parser.parse_args(words)


def _plain(given: dict[str, str]) -> SimpleNamespace:
    """What the parser of `run` would return."""
    config, server = given.pop("config", None), given.pop("server", None)
    return SimpleNamespace(
        **given, config=Path(config) if config else None, server=[server] if server else [], run=_run
    )


def _add_run_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
) -> argparse.ArgumentParser:
    from argparse import SUPPRESS

    from tunnel_daemon.settings_flags import add_setting_flags

    parser = subparsers.add_parser("run", help="run the agent; what happens without a command, too")
    add_setting_flags(parser, AgentConfig, DEFAULT_CONFIG)
    add_alias_flags(parser, "flags of yurt-tunnel-agent", ALIASES)
    parser.add_argument(
        "--server", metavar="HOST:PORT", action="append", default=[], help="one of --servers; may be repeated"
    )
    parser.add_argument(
        "--proxy",
        metavar="URL",
        default=SUPPRESS,
        help="http://HOST:PORT, or none; one with a password belongs in the file: every user sees this line",
    )
    parser.set_defaults(run=_run)
    return parser


def _run(options: argparse.Namespace | SimpleNamespace) -> int:
    # Here, because --help and --version are answered sooner without an event loop.
    from tunnel_agent.small_trio import import_trio

    import_trio()
    # attrs keeps the source of all that it wrote for trio, for debuggers: 0.2 MiB for what follows to use.
    linecache.clearcache()
    from certs.files import StateError
    from tunnel_agent.credentials import CredentialsError, load_credentials
    from tunnel_daemon.reloading import Source
    from tunnel_daemon.signals import ignore_hangups

    try:
        aliased = _read_aliases(options)
        source = Source(options.config or DEFAULT_CONFIG, lambda: read_config(options, aliased))
        config = source.read()
    except SettingsError as error:
        return report(PROGRAM, error)
    ignore_hangups()
    configure_logging(config.log_level, config.log_format)
    from tunnel_agent.service import run_agent

    async def run() -> None:
        claims = aliased.checked | ({"node-name": config.node_name} if config.node_name else {})
        if claims and config.service_account_token is None:
            credentials = load_credentials(config.state_dir)
            aliased.warnings += check_identity(claims, credentials.identity.name, credentials.addresses)
        for warning in aliased.warnings:
            log.warning("%s", warning)
        await run_agent(config, __version__, source)

    return run_program(PROGRAM, run, known=(CredentialsError, StateError))


def read_config(options: argparse.Namespace | SimpleNamespace, aliased: Aliased | None = None) -> AgentConfig:
    """Return the configuration file's settings with the command line's over them; raises SettingsError."""
    aliased = aliased or _read_aliases(options)
    return settings_from_flags(options, AgentConfig, DEFAULT_CONFIG, aliased)


def _read_aliases(options: argparse.Namespace | SimpleNamespace) -> Aliased:
    if options.server:
        options.servers = ",".join([*filter(None, [getattr(options, "servers", "")]), *options.server])
        options.server = []
    return read_aliases(options, ALIASES)
