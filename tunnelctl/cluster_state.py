"""The state of a tunnel in a cluster, for subcommands that work on a server's state."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.cluster_arguments import NAMESPACE, asks_cluster, has_kubeconfig, namespace_of
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    import argparse

    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.state import ClusterState

CONFIG, CONFIG_KEY = "tunnel-server-config", "server.toml"
"""The ConfigMap with the server's configuration, and the key that has it."""
_OF_ITS_HOST = {"prerouting-address": "192.0.2.1,2001:db8::1"}
"""What stands for the address of its host, which the server's pod has and the ConfigMap has not."""


@dataclass(frozen=True)
class ClusterPlace:
    """A namespace of a cluster."""

    kubeconfig: Path | None = None
    """None: as kubectl finds one."""
    context: str = ""
    namespace: str = NAMESPACE
    from_pod: bool = False
    """Asked as the ServiceAccount of the pod that this runs in."""
    guessed: bool = False
    """Nobody has named it."""


def named_place(args: argparse.Namespace) -> ClusterPlace | None:
    """Return the place that the command line names, if it names one."""
    if not asks_cluster(args):
        return None
    return ClusterPlace(args.kubeconfig, args.context or "", namespace_of(args))


def usual_place() -> ClusterPlace | None:
    """Return the place that kubectl would use, if there is a kubeconfig."""
    return ClusterPlace(guessed=True) if has_kubeconfig() else None


def connect(place: ClusterPlace) -> Cluster:
    """Return a client of the cluster; raises UsageError for a kubeconfig that is not usable, CommandError."""
    try:
        from tunnel_server.kube.access import from_kubeconfig, from_pod
        from tunnel_server.kube.client import Cluster
        from tunnel_server.kube.failures import ApiFailure
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} is not installed: work on a cluster needs edge-tunnel[server]"
        ) from None
    if place.kubeconfig is not None and not place.kubeconfig.exists():
        raise UsageError(f"--kubeconfig: {place.kubeconfig} does not exist")
    how = from_pod if place.from_pod else partial(from_kubeconfig, place.kubeconfig, place.context)
    try:
        return Cluster(how)
    except ApiFailure as failure:
        raise UsageError(str(failure)) from None


def open_cluster_state(place: ClusterPlace) -> ClusterState:
    """Return the state there, whatever there is of it; raises CommandError, StateError."""
    cluster = connect(place)
    from tunnel_server.kube.state import ClusterState

    state = ClusterState(cluster, place.namespace)
    if place.guessed:
        tell(f"tunnelctl: no server is here, so this is about {state}", error=True)
    return state


def server_config(state: ClusterState) -> ServerConfig | None:
    """Return the server's configuration in its cluster, if it is there; raises UsageError, StateError."""
    from tunnel_daemon.settings import SettingsError, read_settings
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.failures import ApiFailure
    from tunnel_server.kube.resources import CONFIG_MAPS
    from tunnel_server.kube.state import unusable

    try:
        found = state.cluster.get(CONFIG_MAPS, CONFIG, state.namespace)
    except ApiFailure as failure:
        if failure.status == 404:
            return None
        raise unusable(failure) from None
    text = (found.get("data") or {}).get(CONFIG_KEY)
    if text is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        try:
            return read_settings(ServerConfig, Path(file.name), _OF_ITS_HOST)
        except SettingsError as error:
            where = f"ConfigMap {state.namespace}/{CONFIG}, {CONFIG_KEY}"
            raise UsageError("; ".join(error.problems).replace(file.name, where)) from None
