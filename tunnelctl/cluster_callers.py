"""Whether callers in pods can be captured: what the server was told, and what the CNI does to them."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.references import ObjectReference
from tunnel_server.kube.resources import CONFIG_MAPS, ApiResource
from tunnelctl.checks import Check, State
from tunnelctl.install.manifests import SERVER_CONFIG, SERVER_FILE

if TYPE_CHECKING:
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

CILIUM = ObjectReference(CONFIG_MAPS, "cilium-config", "kube-system")
FELIX = ObjectReference(
    ApiResource("felixconfigurations", "FelixConfiguration", "crd.projectcalico.org"), "default"
)
_OTHER_WAYS = "or callers by name, or with hostNetwork on the server's host"


def check_pods(cluster: Cluster, namespace: str) -> Check:
    """Judge the way of pods on the server's host to our rules. Raises ApiFailure if nobody answers."""
    networks = _caller_networks(_seen(cluster, ObjectReference(CONFIG_MAPS, SERVER_CONFIG, namespace)))
    if not networks:
        text = "callers in pods are not captured: the server has no caller-networks"
        return Check("pods", State.SKIPPED, text, "tunnelctl install --caller-networks")
    for why, remedy in (
        (_cilium(_seen(cluster, CILIUM)), "set Cilium's bpf.hostLegacyRouting=true"),
        (_calico(_seen(cluster, FELIX)), "have Calico use its iptables or nftables data plane"),
    ):
        if why:
            return Check("pods", State.WARNING, f"{why}: they are not captured", f"{remedy}, {_OTHER_WAYS}")
    return Check("pods", State.OK, f"those in {', '.join(networks)} are captured on the server's host")


def _seen(cluster: Cluster, reference: ObjectReference) -> Object:
    """Return an object; an empty one where there is none, or where the user may not see it."""
    try:
        return cluster.find(reference) or {}
    except ApiFailure as failure:
        if failure.lasting:
            return {}
        raise


def _caller_networks(config: Object) -> list[str]:
    try:
        return list(tomllib.loads((config.get("data") or {})[SERVER_FILE])["caller-networks"])
    except (KeyError, ValueError):
        return []


def _cilium(config: Object) -> str:
    """Return why Cilium's pods pass netfilter by (its eBPF host routing), if they do."""
    data = config.get("data") or {}
    replaces = data.get("kube-proxy-replacement") in {"true", "strict"}
    masquerades = data.get("enable-bpf-masquerade") == "true"
    if replaces and masquerades and data.get("enable-host-legacy-routing") != "true":
        return "Cilium routes pods by eBPF, past netfilter"
    return ""


def _calico(felix: Object) -> str:
    if (felix.get("spec") or {}).get("bpfEnabled") is True:
        return "Calico's eBPF data plane routes pods past netfilter"
    return ""
