"""What an apiserver tells of itself, of its user, and of nodes' kubelets, which it asks for us."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel_server.kube.failures import ApiFailure, ApiRequest
from tunnel_server.kube.resources import NODES, PODS, SERVICES, ApiResource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import Object

_REVIEWS = ApiResource("selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io")
_NO_SERVICES = "192.88.99.1"
"""Of a range that nobody uses any more (RFC 7526)."""


@dataclass(frozen=True, slots=True)
class _Subresource(ApiResource):
    """What is served below an object: `pods/log`."""

    below: str = ""

    def path(self, namespace: str = "", name: str = "") -> str:
        return f"{ApiResource.path(self, namespace, name)}/{self.below}"

    def __str__(self) -> str:
        return f"{ApiResource.__str__(self)}/{self.below.partition('/')[0]}"


@dataclass(frozen=True, slots=True)
class _Page(ApiResource):
    """A page that is no object's; `plural` is its path, `kind` what to call it."""

    def path(self, namespace: str = "", name: str = "") -> str:
        return self.plural

    def __str__(self) -> str:
        return self.kind


def version(cluster: Cluster) -> tuple[int, int]:
    """Return major and minor version. Asked once: it tells whether there is one. Raises ApiFailure."""
    request = ApiRequest("get", _Page("/version", "the apiserver's version"))
    answer = cluster.connection.ask(request, "GET", once=True)
    return int(answer["major"]), int(answer["minor"].rstrip("+"))


def may(cluster: Cluster, verb: str, resource: ApiResource, namespace: str = "") -> bool:
    """Whether the user may. Raises ApiFailure."""
    return _review(cluster, resource.group, resource.plural, verb, namespace)


def may_everything(cluster: Cluster) -> bool:
    """Whether the user is a cluster administrator: one question instead of many. Raises ApiFailure."""
    return _review(cluster, "*", "*", "*", "")


def _review(cluster: Cluster, group: str, resource: str, verb: str, namespace: str) -> bool:
    attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
    review = cluster.create(_REVIEWS, {"spec": {"resourceAttributes": attributes}})
    return bool(review["status"]["allowed"])


def namespaced_kinds(cluster: Cluster) -> Iterator[tuple[str, list[ApiResource] | None]]:
    """Yield each `group/version` with the kinds whose objects live in a namespace, can be listed and made.

    None for one whose API server does not answer, as when a service behind an APIService is down. Raises
    ApiFailure where nobody answers at all.
    """
    listed = cluster.connection.ask(ApiRequest("list", _Page("/apis", "the API's groups")), "GET")
    # Of a group the preferred version comes first; some kinds are in others only.
    others = [each["groupVersion"] for group in listed.get("groups") or () for each in group["versions"]]
    for group_version in ("v1", *others):
        path = f"/apis/{group_version}" if "/" in group_version else f"/api/{group_version}"
        group, _, version = group_version.rpartition("/")
        try:
            found = cluster.connection.ask(ApiRequest("list", _Page(path, group_version)), "GET", once=True)
        except ApiFailure as failure:
            if not failure.status:
                raise
            yield group_version, None
            continue
        yield (
            group_version,
            [
                ApiResource(each["name"], each["kind"], group, version)
                for each in found.get("resources") or ()
                if each["namespaced"] and {"list", "create", "delete"} <= set(each["verbs"])
            ],
        )


def service_range(cluster: Cluster) -> tuple[str, ...]:
    """Return the service range, read from why a Service with an address outside of it is refused.

    Empty if that does not say it. Nothing is made. Raises ApiFailure.
    """
    outside = {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": {"generateName": "edge-tunnel-probe-"},
        "spec": {"clusterIP": _NO_SERVICES, "ports": [{"port": 1}]},
    }
    request = ApiRequest("create", SERVICES, "default")
    try:
        cluster.connection.ask(request, "POST", outside, query={"dryRun": "All"})
    except ApiFailure as failure:
        found = re.search(r"range of valid IPs is ([0-9a-fA-F.:]+/[0-9]+)", str(failure))
        return (found[1],) if found else ()
    return ()


def container_log(
    cluster: Cluster, pod: Object, container: str, *, lines: int, previous: bool = False
) -> str:
    """Return the end of a container's log, or of its predecessor's. Raises ApiFailure."""
    query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
    metadata = pod["metadata"]
    resource = _Subresource(PODS.plural, PODS.kind, below="log")
    request = ApiRequest("get", resource, metadata["namespace"], metadata["name"])
    return cluster.connection.read(request, query=query).decode(errors="replace")


def ask_kubelet(cluster: Cluster, node: str, path: str) -> str:
    """Return a page of a kubelet, which the apiserver dials as it does for `logs`. Raises ApiFailure."""
    request = ApiRequest("get", _Subresource(NODES.plural, NODES.kind, below=f"proxy/{path}"), "", node)
    return cluster.connection.read(request).decode(errors="replace")
