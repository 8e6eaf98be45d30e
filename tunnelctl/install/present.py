"""What an installation that is there was told, so that who installs again need not repeat it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.selector import LabelSelector
from tunnelctl.cluster_arguments import NAMESPACE
from tunnelctl.install.manifests import SERVER, SERVER_CONFIG, SERVER_FILE, Options, pod_spec

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

VERSION = "app.kubernetes.io/version"


def look(cluster: Cluster) -> Options:
    """Read it: empty where nothing was chosen, or where it cannot be read. Raises ApiFailure."""
    config = cluster.find(ObjectReference(CONFIG_MAPS, SERVER_CONFIG, NAMESPACE))
    server = cluster.find(ObjectReference(DEPLOYMENTS, SERVER, NAMESPACE))
    return present(config, server)


def present(config: Object | None, server: Object | None) -> Options:
    """Read it from the server's ConfigMap and Deployment."""
    found = _settings(config)
    if server is None:
        return found
    spec = pod_spec(server)
    image = str(spec["containers"][0]["image"])
    version = (server["metadata"].get("labels") or {}).get(VERSION)
    return replace(
        found,
        # A new version names its own anew.
        image="" if image == f"edge-tunnel:{version}" else image,
        server_node=(spec.get("nodeSelector") or {}).get("kubernetes.io/hostname", ""),
    )


def _settings(config: Object | None) -> Options:
    try:
        settings = tomllib.loads(((config or {}).get("data") or {})[SERVER_FILE])
        cluster = settings["kubernetes"]
        return Options(
            server_addresses=tuple(map(str, settings["server-addresses"])),
            edge_networks=tuple(map(ip_network, settings["edge-networks"])),
            edge_selectors=tuple(map(LabelSelector.parse, cluster["node-selector"])),
            service_networks=tuple(map(ip_network, cluster["service-networks"])),
            pod_networks=tuple(map(ip_network, cluster["pod-networks"])),
        )
    except (KeyError, TypeError, ValueError):
        return Options()
