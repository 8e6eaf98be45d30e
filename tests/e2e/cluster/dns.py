"""CoreDNS as kubeadm runs it, and with the lines that the page on ways in shows."""

from pathlib import Path
from typing import Any

import yaml

from tests.e2e.cluster import images
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.components.released import COREDNS
from tests.e2e.cluster.documented import APISERVER, shown
from tests.e2e.cluster.node import DNS
from tests.e2e.cluster.objects import Object

_IMAGE = "localhost/coredns:1"
_NAME = {"name": "coredns", "namespace": "kube-system"}
_LABELS = {"k8s-app": "kube-dns"}
_GROUP = "rbac.authorization.k8s.io"
_RULES = [
    {
        "apiGroups": [""],
        "resources": ["endpoints", "services", "pods", "namespaces"],
        "verbs": ["list", "watch"],
    },
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
]
_COREFILE = """
.:53 {
    errors
    ready
%s
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
    }
    reload
}
"""


def install(cluster: Cluster, directory: Path) -> None:
    """Have it run on the cloud node, where pods and the host ask it."""
    archive = directory / "coredns.tar"
    images.write_program(archive, _IMAGE, COREDNS.place())
    cluster.nodes["cloud"].load(archive)
    cluster.control_plane.apply(*_objects())
    cluster.kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=40s")


def hurry(cluster: Cluster, stamp: str) -> None:
    """Have the kubelet bring it the ConfigMap as it is now, and not within a minute."""
    words = ["-n", "kube-system", "annotate", "--overwrite", "pods", "-l", "k8s-app=kube-dns"]
    cluster.kubectl(*words, f"looked={stamp}")


def _objects() -> list[Object]:
    hosts = shown(APISERVER, "text", "hosts /etc/edge-tunnel")
    container: Object = {
        "name": "coredns",
        "image": _IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    }
    spec: Object = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "nodeSelector": {"cloud": "true"},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    added = yaml.safe_load(shown(APISERVER, "yaml", "name: coredns"))
    container["volumeMounts"] += added["containers"][0]["volumeMounts"]
    spec["volumes"] += added["volumes"]
    role: dict[str, Any] = {"apiGroup": _GROUP, "kind": "ClusterRole", "name": "system:coredns"}
    named = {"apiVersion": f"{_GROUP}/v1", "metadata": {"name": "system:coredns"}}
    ports = [{"name": f"dns-{each.lower()}", "port": 53, "protocol": each} for each in ("UDP", "TCP")]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _NAME},
        {"kind": "ClusterRole", **named, "rules": _RULES},
        {
            "kind": "ClusterRoleBinding", **named, "roleRef": role,
            "subjects": [{"kind": "ServiceAccount", **_NAME}],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _NAME, "data": {"Corefile": _COREFILE % hosts}},
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {**_NAME, "name": "kube-dns"},
            "spec": {"selector": _LABELS, "clusterIP": DNS, "ports": ports},
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": _NAME,
            "spec": {
                "selector": {"matchLabels": _LABELS},
                "template": {"metadata": {"labels": _LABELS}, "spec": spec},
            },
        },
    ]  # fmt: skip
