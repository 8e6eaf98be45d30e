"""What an installation that is there was told, so that who installs again need not repeat it."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, Reference
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.selector import LabelSelector
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
    edge_selectors: tuple[LabelSelector, ...] = ()
    service_networks: tuple[IPNetwork, ...] = ()
    pod_networks: tuple[IPNetwork, ...] = ()


def look(cluster: Objects) -> Present:
    """Read it; raises ApiFailure."""
    config = cluster.find(Reference(CONFIG_MAPS, SERVER_CONFIG, NAMESPACE))
    server = cluster.find(Reference(DEPLOYMENTS, SERVER, NAMESPACE))
    return present(config, server)


def present(config: Object | None, server: Object | None) -> Present:
    """Read it from the server's ConfigMap and Deployment."""
    found = _settings(config)
    if server is None:
        return found
    spec = pod_spec(server)
    image = str(spec["containers"][0]["image"])
    version = (server["metadata"].get("labels") or {}).get(VERSION)
    return replace(
        found,
        image=None if image == f"edge-tunnel:{version}" else image,
        server_node=(spec.get("nodeSelector") or {}).get("kubernetes.io/hostname"),
    )


def _settings(config: Object | None) -> Present:
    try:
        settings = tomllib.loads(((config or {}).get("data") or {})[SERVER_FILE])
        cluster = settings["kubernetes"]
        return Present(
            server_addresses=tuple(map(str, settings["server-addresses"])),
            edge_networks=tuple(map(ip_network, settings["edge-networks"])),
            edge_selectors=tuple(map(LabelSelector.parse, cluster["node-selector"])),
            service_networks=tuple(map(ip_network, cluster["service-networks"])),
            pod_networks=tuple(map(ip_network, cluster["pod-networks"])),
        )
    except (KeyError, TypeError, ValueError):
        return Present()
