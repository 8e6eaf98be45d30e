"""metrics-server as its own manifests run it: in a pod of the pod network, behind an APIService."""

from pathlib import Path

from tests.e2e.cluster import images
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.components.released import METRICS_SERVER
from tests.e2e.cluster.objects import Object

_IMAGE = "localhost/metrics-server:1"
_NAME = {"name": "metrics-server", "namespace": "kube-system"}
_LABELS = {"k8s-app": "metrics-server"}
_GROUP = "rbac.authorization.k8s.io"
_RULES = [
    {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
]


def install(cluster: Cluster, directory: Path) -> None:
    """Have it run on the cloud node; return when its API is served. It calls kubelets by their addresses."""
    archive = directory / "metrics-server.tar"
    images.write_program(archive, _IMAGE, METRICS_SERVER.place())
    cluster.nodes["cloud"].load(archive)
    cluster.control_plane.apply(*_objects())
    wait = ["wait", "--for=condition=Available", "--timeout=60s", "apiservice/v1beta1.metrics.k8s.io"]
    cluster.kubectl(*wait)


def _objects() -> list[Object]:
    container = {
        "name": "metrics-server",
        "image": _IMAGE,
        "imagePullPolicy": "Never",
        "args": [
            "--cert-dir=/tmp",
            "--secure-port=4443",
            "--metric-resolution=10s",
            "--kubelet-request-timeout=4s",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-certificate-authority=/cluster/ca.crt",
        ],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "ca", "mountPath": "/cluster"}],
        "readinessProbe": {
            "httpGet": {"path": "/livez", "port": 4443, "scheme": "HTTPS"},
            "periodSeconds": 1,
        },
    }
    spec = {
        "serviceAccountName": "metrics-server",
        "nodeSelector": {"cloud": "true"},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "ca", "configMap": {"name": "kube-root-ca.crt"}},
        ],
    }
    template = {"metadata": {"labels": _LABELS}, "spec": spec}
    subjects = [{"kind": "ServiceAccount", **_NAME}]
    reader = {"kind": "Role", "name": "extension-apiserver-authentication-reader"}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _NAME},
        {
            "apiVersion": f"{_GROUP}/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:metrics-server"}, "rules": _RULES,
        },
        _binding("system:metrics-server", subjects),
        _binding("system:auth-delegator", subjects),
        {
            "apiVersion": f"{_GROUP}/v1", "kind": "RoleBinding", "metadata": _NAME,
            "roleRef": {"apiGroup": _GROUP, **reader}, "subjects": subjects,
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": _NAME,
            "spec": {"selector": _LABELS, "ports": [{"port": 443, "targetPort": 4443}]},
        },
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": _NAME,
            "spec": {"selector": {"matchLabels": _LABELS}, "template": template},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1beta1.metrics.k8s.io"},
            "spec": {
                "group": "metrics.k8s.io", "version": "v1beta1", "service": _NAME,
                "insecureSkipTLSVerify": True, "groupPriorityMinimum": 100, "versionPriority": 100,
            },
        },
    ]  # fmt: skip


def _binding(role: str, subjects: list[dict[str, str]]) -> Object:
    return {
        "apiVersion": f"{_GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"metrics-server:{role}"},
        "roleRef": {"apiGroup": _GROUP, "kind": "ClusterRole", "name": role},
        "subjects": subjects,
    }
