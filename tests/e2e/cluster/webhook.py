"""A webhook in the cluster that refuses ConfigMaps, and the Service by which kube-apiserver calls it."""

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.objects import Object, service
from tests.e2e.cluster.reviews import registration, reviewing
from tests.e2e.network import listen

_ADDRESS = "10.96.200.2"
_PORT = 9443
_NAME = "webhook"
_RULE = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
_DEFAULT = {"matchLabels": {"kubernetes.io/metadata.name": "default"}}
REFUSAL = "the webhook does not like this"


def webhook_service(cluster: Cluster) -> list[Object]:
    """The Service, which kube-proxy has to have heard of before."""
    return service(_NAME, _ADDRESS, 443, (cluster.topology.cloud.address, _PORT))


@contextlib.contextmanager
def webhook(cluster: Cluster) -> Iterator[list[str]]:
    """One for every ConfigMap in the namespace `default`, and the names that it was asked about."""
    asked: list[str] = []

    def refuse(request: Object) -> dict[str, Any]:
        asked.append(request["name"])
        return {"allowed": False, "status": {"message": REFUSAL}}

    plane, cloud = cluster.control_plane, cluster.topology.cloud
    client = {"service": {"name": _NAME, "namespace": "default"}}
    registered = registration(plane, _NAME, _RULE, client, namespaceSelector=_DEFAULT)
    listener = listen(cloud, (cloud.address, _PORT))
    with reviewing(plane, _NAME, listener, f"{_NAME}.default.svc", refuse, registered):
        yield asked
