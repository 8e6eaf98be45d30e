"""What an installation that is there was told, so that who installs again need not repeat it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from ipaddress import ip_network
from typing import TYPE_CHECKING

from tunnel_server.kube.references import DEPLOYMENTS, ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.selector import LabelSelector
from tunnelctl.install.manifests import FURTHER_FILE, SERVER, SERVER_CONFIG, SERVER_FILE, Options, pod_spec

if TYPE_CHECKING:
    from certs.addresses import IPNetwork
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

VERSION = "app.kubernetes.io/version"


def look(cluster: Cluster, namespace: str) -> Options:
    """Read it: empty where nothing was chosen, or where it cannot be read. Raises ApiFailure."""
    config = cluster.find(ObjectReference(CONFIG_MAPS, SERVER_CONFIG, namespace))
    server = cluster.find(ObjectReference(DEPLOYMENTS, SERVER, namespace))
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
        data = (config or {}).get("data") or {}
        settings = tomllib.loads(data[SERVER_FILE])
        cluster = settings["kubernetes"]
        return Options(
            server_addresses=tuple(map(str, settings["server-addresses"])),
            edge_networks=tuple(map(ip_network, settings["edge-networks"])),
            edge_selectors=tuple(map(LabelSelector.parse, cluster["node-selector"])),
            service_networks=tuple(map(ip_network, cluster["service-networks"])),
            pod_networks=tuple(map(ip_network, cluster["pod-networks"])),
            caller_networks=tuple(map(ip_network, settings["caller-networks"])) or None,
            by_name=_outside(settings["direct-networks"]) if "names-configmap" in cluster else None,
            config=data.get(FURTHER_FILE),
        )
    except (KeyError, TypeError, ValueError):
        return Options()


def _outside(networks: list[str]) -> tuple[IPNetwork, ...]:
    """Return those that are not of the host's loopback, which are always there."""
    found = map(ip_network, networks)
    return tuple(each for each in found if not each.network_address.is_loopback)
