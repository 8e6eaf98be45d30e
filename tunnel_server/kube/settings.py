"""The table `[kubernetes]`: which cluster is watched, and what in it counts."""

from dataclasses import dataclass
from pathlib import Path

from tunnel_daemon.settings import between, setting
from tunnel_daemon.settings_values import Network
from tunnel_server.kube.resources import NamespacedName
from tunnel_server.kube.selector import LabelSelector

DEFAULT_NODE_SELECTOR = (
    LabelSelector.parse("openyurt.io/is-edge-worker=true"),
    LabelSelector.parse("openyurt.io/edge-enable-reverseTunnel-client=true"),
    LabelSelector.parse("node-restriction.kubernetes.io/edge-tunnel=true"),
)
"""What yurt-tunnel-server takes for a node with an agent; and a label that no kubelet can give its Node, or
take from it, where the admission plugin NodeRestriction is on.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KubernetesSettings:
    """The cluster that this server is the tunnel of."""

    enabled: bool = setting(
        False, doc="watch a cluster: its Nodes say which edges there are, and their addresses"
    )
    kubeconfig: Path | None = setting(
        None, doc="how its apiserver is reached; without one, as the pod's ServiceAccount"
    )
    context: str = setting("", doc="of the kubeconfig; without one, its current context")
    namespace: str = setting("edge-tunnel", doc="where the tunnel's own objects are")
    node_selector: tuple[LabelSelector, ...] = setting(
        DEFAULT_NODE_SELECTOR,
        doc="label selectors; a Node that one of them selects is an edge, and no other is",
        live=True,
    )
    service_networks: tuple[Network, ...] = setting(
        (),
        doc="the cluster's service range (`--service-cluster-ip-range` of kube-apiserver), of which no "
        "address is an edge's; without it, as the ServiceCIDR objects say, which Kubernetes has since 1.33",
    )
    pod_networks: tuple[Network, ...] = setting(
        (),
        doc="the cluster's pod ranges, all of them (`--cluster-cidr`, or the CNI's pools), of which no "
        "address is an edge's; without it, the `podCIDRs` of Nodes that are no edges",
        live=True,
    )
    port_configmap: NamespacedName = setting(
        NamespacedName("kube-system", "yurt-tunnel-server-cfg"),
        doc="ConfigMap with the lists of ports; a key that it has counts instead of the one in this file",
    )
    names_configmap: NamespacedName | None = setting(
        None,
        doc="ConfigMap that is kept for CoreDNS: the key `tunnel-nodes` in the form of its `hosts` plugin; "
        "yurt-tunnel's is kube-system/yurt-tunnel-nodes",
    )
    names_service: str = setting(
        "tunnel-server-internal",
        doc="Service in `namespace` at whose address edges are reached by name, as names-configmap says",
    )
    agent_service_account: str = setting(
        "tunnel-agent", doc="ServiceAccount in `namespace` as which agents in the cluster join"
    )
    agent_daemon_set: str = setting("tunnel-agent", doc="DaemonSet in `namespace` whose pods these are")
    audience: str = setting("tunnel", doc="audience that their tokens must be for")
    request_timeout: float = setting(
        10.0,
        doc="for a connection to the apiserver, and for its answer",
        unit="seconds",
        check=between(0.1, 300),
    )
    watch_timeout: float = setting(
        60.0,
        doc="after which a watch is begun anew; an apiserver that has fallen silent is noticed within this "
        "and request-timeout",
        unit="seconds",
        check=between(1, 3600),
    )
