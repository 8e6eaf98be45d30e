"""Where a server keeps its state, for subcommands that do not ask the server itself.

What the command line names; else what the server's configuration on this machine says; else the usual
directory, if it is there; else, but never to make anything, the cluster that kubectl would use.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from certs.files import StateDirectory, StateError, StateUnavailableError
from tunnelctl.cluster_arguments import add_cluster_arguments
from tunnelctl.cluster_state import (
    ClusterPlace,
    named_place,
    open_cluster_state,
    server_config,
    usual_place,
)
from tunnelctl.errors import CommandError, NotReachableError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from certs.addresses import IPNetwork
    from certs.state import State
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.state import ClusterState

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
    cluster: ClusterPlace | None = None
    """Where the state is, if not in `state_dir`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--state-dir`, `--config`, `--json`, and what names a cluster."""
    parser.add_argument(
        "--state-dir", type=Path, metavar="DIR", help=f"default: the configuration's, or {DEFAULT_STATE}"
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: {DEFAULT_CONFIG}, if there is one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_cluster_arguments(parser)


def find_server(args: argparse.Namespace, *, make: bool = False) -> LocalServer:
    """Read what `add_arguments` added; raises UsageError for a bad configuration.

    With `make`, state is to be made there: then never in a cluster that nobody has named.
    """
    from certs.addresses import DEFAULT_EDGE_NETWORKS

    named = named_place(args)
    if named is not None and args.state_dir is not None:
        raise UsageError("--state-dir is on this machine, and --kubeconfig, --context, --namespace are not")
    path: Path | None = args.config
    if path is None and (named or not DEFAULT_CONFIG.exists()):
        usual = LocalServer(args.state_dir or DEFAULT_STATE, DEFAULT_EDGE_NETWORKS, AGENT_PORT, (), named)
        if named or args.state_dir or make or DEFAULT_STATE.exists() or not (place := usual_place()):
            return usual
        return replace(usual, cluster=place)
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
        None if args.state_dir else named or _configured_place(config),
    )


def _configured_place(config: ServerConfig) -> ClusterPlace | None:
    cluster = config.kubernetes
    if not cluster.enabled:
        return None
    return ClusterPlace(
        cluster.kubeconfig, cluster.context, cluster.namespace, from_pod=cluster.kubeconfig is None
    )


def open_state(server: LocalServer) -> State:
    """Open the server's state; raises CommandError if there is none, StateError."""
    if server.cluster is not None:
        return open_cluster_state(server.cluster)
    if not server.state_dir.exists():
        raise CommandError(
            f"{server.state_dir} does not exist: run `tunnelctl init` first, or name a cluster, --kubeconfig"
        )
    return StateDirectory(server.state_dir)


@contextmanager
def prepared_state(server: LocalServer) -> Iterator[State]:
    """Open the place where state is to be made; if the block fails, no empty directory is left.

    Raises CommandError, StateError.
    """
    if server.cluster is not None:
        yield open_cluster_state(server.cluster)
    else:
        with StateDirectory.prepared(server.state_dir) as state:
            yield state


def with_cluster_config(server: LocalServer, state: State) -> LocalServer:
    """Return what the server's configuration in its cluster adds; raises UsageError, StateError."""
    if server.cluster is None:
        return server
    config = server_config(cast("ClusterState", state))
    if config is None:
        return server
    return replace(
        server,
        edge_networks=tuple(config.edge_networks),
        tunnel_port=config.tunnel_port or AGENT_PORT,
        addresses=tuple(map(str, config.server_addresses)),
    )


@contextmanager
def state_errors() -> Iterator[None]:
    """Turn what the state can raise into a CommandError."""
    try:
        yield
    except StateUnavailableError as error:
        raise NotReachableError(str(error)) from None
    except StateError as error:
        raise CommandError(str(error)) from None
