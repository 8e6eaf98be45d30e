"""Where the server of this machine keeps its state, for subcommands that do not ask the server itself."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from certs.files import StateDirectory, StateError
from tunnelctl.errors import CommandError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from certs.addresses import IPNetwork
    from certs.state import State

DEFAULT_CONFIG = Path("/etc/edge-tunnel/server.toml")
DEFAULT_STATE = Path("/var/lib/edge-tunnel")
AGENT_PORT = 10262


@dataclass(frozen=True)
class LocalServer:
    """What the command line and the server's configuration say."""

    state_dir: Path
    edge_networks: tuple[IPNetwork, ...]
    tunnel_port: int
    addresses: tuple[str, ...]
    """`HOST:PORT` of what agents dial, where the configuration names any."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--state-dir`, `--config` and `--json`."""
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help=f"default: the configuration's, or {DEFAULT_STATE}"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: {DEFAULT_CONFIG}, if there is one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def find_server(args: argparse.Namespace) -> LocalServer:
    """Read what `add_arguments` added; raises UsageError for a bad configuration."""
    from certs.addresses import DEFAULT_EDGE_NETWORKS

    path: Path | None = args.config
    if path is None and not DEFAULT_CONFIG.exists():
        return LocalServer(args.state_dir or DEFAULT_STATE, DEFAULT_EDGE_NETWORKS, AGENT_PORT, ())
    from tunnel_daemon.settings import SettingsError, read_settings
    from tunnel_server.config import ServerConfig

    try:
        config = read_settings(ServerConfig, path or DEFAULT_CONFIG)
    except SettingsError as error:
        raise UsageError("; ".join(error.problems)) from None
    return LocalServer(
        args.state_dir or config.state_dir,
        tuple(config.edge_networks),
        config.tunnel_port or AGENT_PORT,
        tuple(map(str, config.server_addresses)),
    )


def open_state(server: LocalServer) -> State:
    """Open the server's state; raises CommandError if there is none, StateError."""
    if not server.state_dir.exists():
        raise CommandError(f"{server.state_dir} does not exist: run `tunnelctl init` first")
    return StateDirectory(server.state_dir)


@contextmanager
def state_errors() -> Iterator[None]:
    """Turn what the state can raise into a CommandError."""
    try:
        yield
    except StateError as error:
        raise CommandError(str(error)) from None
