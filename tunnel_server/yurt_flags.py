"""The flags of yurt-tunnel-server, v0.6.0 to v1.2.0; docs/migrating-from-yurt-tunnel.md explains each."""

from __future__ import annotations

from tunnel_daemon.settings_aliases import Alias

_POLLED = "nothing is polled: a change is in force at once"
_CERTIFICATE = (
    "the names in the server's certificate are given to `tunnelctl init --cert-ips --cert-dns-names`, and "
    "agents refuse a server whose certificate lacks the name that they dial"
)


def _log_level(verbosity: str) -> str:
    # klog: 4 and more is debugging.
    return "debug" if verbosity.isdigit() and int(verbosity[:4]) >= 4 else "info"


ALIASES = (
    # Besides these, --bind-address, --secure-port, --insecure-port and --meta-port are settings of ours.
    Alias("cert-dir", key="state-dir"),
    Alias("enable-iptables", key="intercept", bare="true"),
    Alias("tunnel-agent-connect-port", key="tunnel-port"),
    Alias("insecure-bind-address", key="meta-address"),
    Alias("v", short="v", key="log-level", translate=_log_level),
    Alias("cert-dns-names", unused=_CERTIFICATE, harmless=("",)),
    Alias("cert-ips", unused=_CERTIFICATE, harmless=("",)),
    Alias("iptables-sync-period", unused=_POLLED),
    Alias("dns-sync-period", unused=_POLLED),
    Alias(
        "kube-config",
        refused="which cluster is watched, and whether one is, says the table [kubernetes] of server.toml "
        "(`enabled`, `kubeconfig`): set it there, and leave the flag out",
        harmless=("",),
    ),
    Alias(
        "enable-dns-controller",
        refused="the records are kept where `names-configmap` of [kubernetes] in server.toml says so: set it "
        "there, and leave the flag out, or set it to false",
        harmless=("false",),
        bare="true",
    ),
    Alias(
        "egress-selector-enable",
        refused="kube-apiserver's EgressSelector needs no flag here: leave it out, and name connect-socket "
        "with protocol HTTPConnect in the EgressSelectorConfiguration",
        harmless=("false",),
        bare="true",
    ),
    Alias(
        "proxy-strategy",
        refused="a call goes to the node that was called, and never to another: leave the flag out, "
        "or set it to destHost",
        harmless=("destHost",),
    ),
    Alias(
        "server-count",
        refused="agents link to one server, and a second would not reach them: run one, and set it to 1",
        harmless=("1",),
    ),
)
