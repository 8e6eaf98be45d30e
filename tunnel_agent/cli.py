"""The command line: `tunnel-agent [run]` and `tunnel-agent join`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tunnel_agent.config import DEFAULT_CONFIG, AgentConfig
from tunnel_agent.credentials import CredentialsError
from tunnel_daemon.logs import configure_logging
from tunnel_daemon.program import EXIT_WRONG_USE, report, run_program
from tunnel_daemon.settings import SettingsError, read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "tunnel-agent"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say it in one line, and where to read more."""
        self.exit(EXIT_WRONG_USE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code: 0, 1 for a failure, 2 for wrong use."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] not in {"run", "join", "-h", "--help", "--version"}:
        words.insert(0, "run")
    parser = _Parser(
        prog=PROGRAM, description="Dials out to a tunnel server, and makes this machine answer there."
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser]
    subparsers = parser.add_subparsers(metavar="{run,join}")  # type: ignore[assignment]  # of _Parser
    _add_run_parser(subparsers)
    if words[0] == "join":
        # Its module loads what a running agent must not.
        from tunnel_agent.join import add_join_parser

        add_join_parser(subparsers)
    else:
        subparsers.add_parser("join", help="join a server, with the line of `tunnelctl token create`")
    options = parser.parse_args(words)
    if options.version:
        print(f"{PROGRAM} {version()}")  # noqa: T201
        return 0
    code: int = options.run(options)
    return code


def version() -> str:
    """Return the installed distribution's version."""
    # Takes a tenth of the start-up time, so not before it is asked for.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("edge-tunnel")
    except PackageNotFoundError:
        return "unknown"


def _add_run_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("run", help="run the agent; what happens without a command, too")
    parser.add_argument(
        "--config", metavar="FILE", type=Path, help=f"default: {DEFAULT_CONFIG}, if it is there"
    )
    parser.add_argument("--state-dir", metavar="DIR", help="where `tunnel-agent join` left what it got")
    parser.add_argument(
        "--server",
        "--servers",
        dest="servers",
        metavar="HOST:PORT",
        nargs="+",
        action="extend",
        help="instead of the servers that joining stored",
    )
    parser.add_argument("--proxy", metavar="URL", help="http://[USER:PASSWORD@]HOST:PORT, or none")
    parser.add_argument("--log-level", metavar="LEVEL", help="debug, info, warning or error")
    parser.add_argument("--log-format", metavar="FORMAT", help="text or json")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    try:
        config = read_config(options)
    except SettingsError as error:
        return report(PROGRAM, error)
    configure_logging(config.log_level, config.log_format)
    from tunnel_agent.service import run_agent

    return run_program(PROGRAM, lambda: run_agent(config, version()), known=(CredentialsError,))


def read_config(options: argparse.Namespace) -> AgentConfig:
    """Return the configuration file's settings with the command line's over them; raises SettingsError."""
    keys = ("state_dir", "servers", "proxy", "log_level", "log_format")
    given = {key.replace("_", "-"): getattr(options, key) for key in keys}
    overrides = {
        key: ",".join(value) if isinstance(value, list) else value
        for key, value in given.items()
        if value is not None
    }
    # A missing file is an error only where it was named: joining is enough to run an agent.
    path = options.config or (DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None)
    return read_settings(AgentConfig, path, overrides)
