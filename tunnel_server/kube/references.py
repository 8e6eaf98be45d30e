"""Naming any one object, of the kinds that an installation consists of or looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tunnel_server.kube.resources import (
    CONFIG_MAPS,
    DAEMON_SETS,
    EVENTS,
    NODES,
    PODS,
    SECRETS,
    SERVICES,
    ApiResource,
)

if TYPE_CHECKING:
    from tunnel_server.kube.resources import Object

_RBAC = "rbac.authorization.k8s.io"

CLUSTER_ROLES = ApiResource("clusterroles", "ClusterRole", _RBAC)
CLUSTER_ROLE_BINDINGS = ApiResource("clusterrolebindings", "ClusterRoleBinding", _RBAC)
CRON_JOBS = ApiResource("cronjobs", "CronJob", "batch")
DEPLOYMENTS = ApiResource("deployments", "Deployment", "apps")
DISRUPTION_BUDGETS = ApiResource("poddisruptionbudgets", "PodDisruptionBudget", "policy")
JOBS = ApiResource("jobs", "Job", "batch")
LEASES = ApiResource("leases", "Lease", "coordination.k8s.io")
NAMESPACES = ApiResource("namespaces", "Namespace")
ROLES = ApiResource("roles", "Role", _RBAC)
ROLE_BINDINGS = ApiResource("rolebindings", "RoleBinding", _RBAC)
SERVICE_ACCOUNTS = ApiResource("serviceaccounts", "ServiceAccount")
STATEFUL_SETS = ApiResource("statefulsets", "StatefulSet", "apps")
VOLUME_CLAIMS = ApiResource("persistentvolumeclaims", "PersistentVolumeClaim")

KINDS = {
    (each.api_version, each.kind): each
    for each in (
        CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, CONFIG_MAPS, CRON_JOBS, DAEMON_SETS, DEPLOYMENTS,
        DISRUPTION_BUDGETS, EVENTS, JOBS, LEASES, NAMESPACES, NODES, PODS, ROLES, ROLE_BINDINGS, SECRETS,
        SERVICES, SERVICE_ACCOUNTS, STATEFUL_SETS, VOLUME_CLAIMS,
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectReference:
    """One object."""

    resource: ApiResource
    name: str
    namespace: str = ""
    """Empty for a kind that knows no namespaces."""

    @classmethod
    def of(cls, manifest: Object) -> Self:
        """Name the object that `manifest` is; raises KeyError for a kind that is not of `KINDS`."""
        metadata = manifest["metadata"]
        resource = KINDS[manifest["apiVersion"], manifest["kind"]]
        return cls(resource, metadata["name"], metadata.get("namespace", ""))

    @property
    def kind(self) -> str:
        """As `Deployment`."""
        return self.resource.kind

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"
