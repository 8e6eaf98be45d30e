"""What is asked of a cluster: synchronous verbs for threads and for `tunnelctl`, and a face for trio.

Objects are JSON as it comes: the models of the package `kubernetes` cost 20 MiB more, and refuse what a later
Kubernetes says.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from tunnel_server.kube.access import from_kubeconfig, from_pod
from tunnel_server.kube.connection import ApiConnection
from tunnel_server.kube.failures import ApiFailure, ApiRequest
from tunnel_server.kube.references import ObjectReference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import urllib3
    from kubernetes.client import ApiClient

    from tunnel_server.kube.resources import ApiResource, Object
    from tunnel_server.kube.settings import KubernetesSettings

T = TypeVar("T")

MANAGER = "edge-tunnel"
"""As which the tunnel owns fields that it applies."""

_PAGE = 500
"""Objects asked for at once."""
_THREADS = 8
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Cluster:
    """One cluster. Every method but `call` blocks, may be used from any thread, and raises ApiFailure."""

    def __init__(
        self, connect: Callable[[], ApiClient], *, timeout: float = 10.0, patience: float = 0.0
    ) -> None:
        """Take what reads the credentials; the rest is as of `ApiConnection`. Raises ApiFailure."""
        self.connection = ApiConnection(connect, timeout=timeout, patience=patience)
        self._threads = trio.CapacityLimiter(_THREADS)

    @classmethod
    def configured(cls, settings: KubernetesSettings) -> Cluster:
        """The cluster that the settings name. Raises ApiFailure."""
        path, context = settings.kubeconfig, settings.context
        connect = partial(from_kubeconfig, path, context) if path else from_pod
        return cls(connect, timeout=settings.request_timeout)

    @property
    def host(self) -> str:
        """The apiserver's URL."""
        return self.connection.host

    async def call(self, work: Callable[[], T]) -> T:
        """Do `work`, which asks the cluster, in a thread. Raises what it raises.

        Cancelled, this returns at once; the request goes on in its thread until it ends or times out, and
        whether it took effect is not known.
        """
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)

    # reading

    def get(self, resource: ApiResource, name: str, namespace: str = "") -> Object:
        """Return one object."""
        return self.connection.ask(ApiRequest("get", resource, namespace, name), "GET")

    def find(self, reference: ObjectReference) -> Object | None:
        """Return one object; None if there is none."""
        try:
            return self.get(reference.resource, reference.name, reference.namespace)
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    def list_all(
        self, resource: ApiResource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """Return all objects that the selectors match, and the resourceVersion to watch from.

        Asked for by pages. With the reason Expired: they took too long, ask again.
        """
        found: list[Object] = []
        query = {"limit": str(_PAGE), **_selectors(labels, fields)}
        while True:
            page = self.connection.ask(ApiRequest("list", resource, namespace), "GET", query=query)
            found += page.get("items") or ()
            about = page.get("metadata") or {}
            if not about.get("continue"):
                return found, str(about.get("resourceVersion", ""))
            query["continue"] = about["continue"]

    def all_of(
        self, resource: ApiResource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return all objects of a kind, each whole: those of a list do not say themselves what they are."""
        found, _ = self.list_all(resource, namespace, labels=labels, fields=fields)
        return [{**_kind(resource), **each} for each in found]

    def open_watch(
        self,
        resource: ApiResource,
        namespace: str = "",
        *,
        labels: str = "",
        fields: str = "",
        since: str,
        seconds: float,
    ) -> urllib3.HTTPResponse:
        """Begin to watch from a resourceVersion, for `seconds`; return the answer, unread. Close it.

        Its reads raise what urllib3 raises, after `seconds` and the timeout without a byte too.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": since,
            "timeoutSeconds": str(max(1, round(seconds))),
            **_selectors(labels, fields),
        }
        return self.connection.open(ApiRequest("watch", resource, namespace), query=query, lasting=seconds)

    # writing

    def create(self, resource: ApiResource, body: Object, namespace: str = "") -> Object:
        """Create an object and return it as it is then."""
        request = ApiRequest("create", resource, namespace)
        return self.connection.ask(request, "POST", {**_kind(resource), **body})

    def replace(self, resource: ApiResource, name: str, body: Object, namespace: str = "") -> Object:
        """Replace an object. With a resourceVersion in its metadata, only that version: else Conflict."""
        return self.connection.ask(ApiRequest("update", resource, namespace, name), "PUT", body)

    def merge(self, resource: ApiResource, name: str, change: Object, namespace: str = "") -> Object:
        """Change some fields of an object by a JSON merge patch (RFC 7386)."""
        request = ApiRequest("patch", resource, namespace, name)
        return self.connection.ask(request, "PATCH", change, content_type=_MERGE)

    def apply(
        self,
        resource: ApiResource,
        name: str,
        fields: Object,
        namespace: str = "",
        *,
        manager: str = MANAGER,
        force: bool = False,
    ) -> Object:
        """Own these fields of an object, which is created if there is none (server-side apply).

        With the reason Conflict: somebody else owns one of them, and `force` would take it from them.
        """
        about = {"name": name, **({"namespace": namespace} if namespace else {})}
        metadata = {**about, **fields.get("metadata", {})}
        return self.apply_manifest({**_kind(resource), **fields, "metadata": metadata}, manager, force=force)

    def apply_manifest(
        self, manifest: Object, manager: str, *, force: bool = False, dry_run: bool = False
    ) -> Object:
        """Do as `apply`, for a whole object of a kind that `ObjectReference` knows."""
        reference = ObjectReference.of(manifest)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        if dry_run:
            query["dryRun"] = "All"
        request = ApiRequest("patch", reference.resource, reference.namespace, reference.name)
        return self.connection.ask(request, "PATCH", manifest, query=query, content_type=_APPLY)

    def delete(
        self,
        resource: ApiResource,
        name: str,
        namespace: str = "",
        *,
        preconditions: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Delete an object; with preconditions (`uid`, `resourceVersion`), only that one: else Conflict."""
        body = {**(options or {}), **({"preconditions": dict(preconditions)} if preconditions else {})}
        self.connection.ask(ApiRequest("delete", resource, namespace, name), "DELETE", body or None)

    def remove(self, reference: ObjectReference, *, uid: str = "", at_once: bool = False) -> bool:
        """Delete an object, and then what it made; False if there was none, or another than that of `uid`.

        `at_once` waits for no kubelet: for pods of a machine that is away.
        """
        options = {"propagationPolicy": "Background", **({"gracePeriodSeconds": 0} if at_once else {})}
        only = {"uid": uid} if uid else None
        try:
            self.delete(
                reference.resource, reference.name, reference.namespace, preconditions=only, options=options
            )
        except ApiFailure as failure:
            if failure.status == 404 or (failure.status == 409 and uid):
                return False
            raise
        return True

    def close(self) -> None:
        """Close idle connections."""
        self.connection.close()


def _kind(resource: ApiResource) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


def _selectors(labels: str, fields: str) -> dict[str, str]:
    found = {"labelSelector": labels, "fieldSelector": fields}
    return {key: text for key, text in found.items() if text}
