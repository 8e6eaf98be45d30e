"""Objects of Kubernetes that tests apply, as dictionaries."""

from collections.abc import Mapping
from typing import Any

from tests.e2e.cluster import images

Object = dict[str, Any]


def pod(name: str, node: str, *containers: Mapping[str, Any], **spec: Any) -> Object:
    """A Pod on a node, which asks no scheduler, of busybox unless a container says otherwise."""
    usual = {"image": images.BUSYBOX, "imagePullPolicy": "Never"}
    made = {
        "nodeName": node,
        "containers": [{**usual, **container} for container in containers],
        "terminationGracePeriodSeconds": 1,
        "enableServiceLinks": False,
        "tolerations": [{"operator": "Exists"}],
        **spec,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": made,
    }


def app(node: str) -> Object:
    """`app-NODE`: container `main` counts to its log and has a web page at port 80, `echo` echoes."""
    page = f"echo hello from app-{node} > /www/index.html; httpd -p 80 -h /www"
    count = 'i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 1; done'
    main = {"name": "main", "command": ["sh", "-c", f"trap exit TERM; {page}; {count}"]}
    return pod(f"app-{node}", node, main, {"name": "echo", "command": ["cat"], "stdin": True, "tty": True})


def service(name: str, address: str, port: int, endpoint: tuple[str, int]) -> list[Object]:
    """A Service without a selector, which leads to a port of one host."""
    metadata = {"name": name, "namespace": "default"}
    spec = {"clusterIP": address, "ports": [{"protocol": "TCP", "port": port, "targetPort": endpoint[1]}]}
    slice_ = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [endpoint[0]]}],
        "ports": [{"protocol": "TCP", "port": endpoint[1]}],
    }
    return [{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}, slice_]
