"""What an installation that is there was told, so that who installs again need not repeat it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, Reference
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.install.manifests import SERVER, SERVER_CONFIG, SERVER_FILE, pod_spec

if TYPE_CHECKING:
    from certs.addresses import IPNetwork
    from tunnel_server.kube.objects import Objects
    from tunnel_server.kube.resources import Object

VERSION = "app.kubernetes.io/version"


@dataclass(frozen=True, slots=True)
class Present:
    """What was chosen; nothing where nothing was, or where it cannot be read."""

    server_addresses: tuple[str, ...] = ()
    edge_networks: tuple[IPNetwork, ...] = ()
    image: str | None = None
    """None for the image that the installed version names by itself: a new version names another."""
    server_node: str | None = None


def look(cluster: Objects) -> Present:
    """Read it; raises ApiFailure."""
    config = cluster.find(Reference(CONFIG_MAPS, SERVER_CONFIG, NAMESPACE))
    server = cluster.find(Reference(DEPLOYMENTS, SERVER, NAMESPACE))
    return present(config, server)


def present(config: Object | None, server: Object | None) -> Present:
    """Read it from the server's ConfigMap and Deployment."""
    try:
        settings = tomllib.loads(((config or {}).get("data") or {})[SERVER_FILE])
        addresses = tuple(map(str, settings["server-addresses"]))
        networks = tuple(ip_network(each) for each in settings["edge-networks"])
    except (KeyError, TypeError, ValueError):
        addresses, networks = (), ()
    if server is None:
        return Present(addresses, networks)
    spec = pod_spec(server)
    image = str(spec["containers"][0]["image"])
    version = (server["metadata"].get("labels") or {}).get(VERSION)
    node = (spec.get("nodeSelector") or {}).get("kubernetes.io/hostname")
    return Present(addresses, networks, None if image == f"edge-tunnel:{version}" else image, node)
