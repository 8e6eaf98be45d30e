"""Requests to one apiserver: synchronous ones for threads and for `tunnelctl`, and a face for trio.

TLS and credentials are those of the package `kubernetes` (see `tunnel_server.kube.access`). Objects are JSON
as it comes: the package's models cost 20 MiB more, and refuse what a later Kubernetes says.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio
import urllib3
from kubernetes.client import ApiException

from tunnel_server.kube.access import from_kubeconfig, from_pod
from tunnel_server.kube.failures import ApiFailure, Asked, no_answer, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kubernetes.client import ApiClient

    from tunnel_server.kube.resources import Object, Resource
    from tunnel_server.kube.settings import KubernetesSettings

log = logging.getLogger(__name__)

T = TypeVar("T")

MANAGER = "edge-tunnel"
"""As which the tunnel owns fields that it applies."""

_PAGE = 500
"""Objects asked for at once."""
_THREADS = 8
_RELOAD_PAUSE = 1.0
"""Seconds between two looks at credentials that are refused."""
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class Cluster:
    """One apiserver, and the credentials to ask it with.

    Every method but `call` blocks, for `timeout` at most, may be used from any thread, and raises ApiFailure.
    Credentials that are refused are read again, from whatever file or plugin gave them, and tried once more:
    a token that expires is replaced in its file by whoever issues it.
    """

    def __init__(self, connect: Callable[[], ApiClient], *, timeout: float = 10.0) -> None:
        """Take what reads the credentials (see `tunnel_server.kube.access`), and do. Raises ApiFailure.

        `timeout`, in seconds, is for the connection, and again for each read of the answer.
        """
        self._connect = connect
        self._timeout = timeout
        self._lock = threading.Lock()
        self._threads = trio.CapacityLimiter(_THREADS)
        self._loaded = time.monotonic()
        self._client = connect()

    @classmethod
    def configured(cls, settings: KubernetesSettings) -> Cluster:
        """The cluster that the settings name. Raises ApiFailure."""
        path, context = settings.kubeconfig, settings.context
        connect = partial(from_kubeconfig, path, context) if path else from_pod
        return cls(connect, timeout=settings.request_timeout)

    @property
    def host(self) -> str:
        """The apiserver's URL."""
        return str(self._client.configuration.host)

    async def call(self, work: Callable[[], T]) -> T:
        """Do `work`, which asks the cluster, in a thread. Raises what it raises.

        Cancelled, this returns at once; the request goes on in its thread until it ends or times out, and
        whether it took effect is not known.
        """
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        """Return one object."""
        return self._json(Asked("get", resource, namespace, name), "GET")

    def list_all(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> tuple[list[Object], str]:
        """Return all objects that the selectors match, and the resourceVersion to watch from.

        Asked for by pages. With the reason Expired: they took too long, ask again.
        """
        found: list[Object] = []
        query = {"limit": str(_PAGE), **_selectors(labels, fields)}
        while True:
            page = self._json(Asked("list", resource, namespace), "GET", query=query)
            found += page.get("items") or ()
            about = page.get("metadata") or {}
            if not about.get("continue"):
                return found, str(about.get("resourceVersion", ""))
            query["continue"] = about["continue"]

    def create(self, resource: Resource, body: Object, namespace: str = "") -> Object:
        """Create an object and return it as it is then."""
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        return self._json(Asked("create", resource, namespace), "POST", body)

    def replace(self, resource: Resource, name: str, body: Object, namespace: str = "") -> Object:
        """Replace an object. With a resourceVersion in its metadata, only that version: else Conflict."""
        return self._json(Asked("update", resource, namespace, name), "PUT", body)

    def merge(self, resource: Resource, name: str, change: Object, namespace: str = "") -> Object:
        """Change some fields of an object by a JSON merge patch (RFC 7386)."""
        return self._json(Asked("patch", resource, namespace, name), "PATCH", change, content_type=_MERGE)

    def apply(
        self,
        resource: Resource,
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
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **fields}
        body["metadata"] = {**about, **fields.get("metadata", {})}
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        asked = Asked("patch", resource, namespace, name)
        return self._json(asked, "PATCH", body, query=query, content_type=_APPLY)

    def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str = "",
        *,
        preconditions: Mapping[str, str] | None = None,
    ) -> None:
        """Delete an object; with preconditions (`uid`, `resourceVersion`), only that one: else Conflict."""
        body = {"preconditions": dict(preconditions)} if preconditions else None
        self._json(Asked("delete", resource, namespace, name), "DELETE", body)

    def open_watch(
        self,
        resource: Resource,
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
        asked = Asked("watch", resource, namespace)
        return self._ask(asked, "GET", query=query, patience=self._timeout + seconds)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _json(
        self,
        asked: Asked,
        method: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Object:
        response = self._ask(asked, method, body, query=query, content_type=content_type)
        try:
            found: Object = json.loads(response.data)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise no_answer(self.host, asked, error) from None
        except ValueError:
            raise ApiFailure(f"apiserver {self.host}: {asked}: its answer is not JSON") from None
        return found

    def _ask(
        self,
        asked: Asked,
        method: str,
        body: Object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        patience: float | None = None,
    ) -> urllib3.HTTPResponse:
        """Return a successful answer, unread. With credentials that are read again if they are refused."""
        for again in (True, False):
            client = self._client
            try:
                response = self._send(client, asked, method, body, query, content_type, patience)
                if 200 <= response.status < 300:
                    return response
                failure = refusal(self.host, asked, response.status, response.data)
            except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
                raise no_answer(self.host, asked, error) from None
            if failure.status != 401 or not again or not self._reconnect(client):
                break
        raise failure

    def _send(
        self,
        client: ApiClient,
        asked: Asked,
        method: str,
        body: Object | None,
        query: Mapping[str, str] | None,
        content_type: str,
        patience: float | None,
    ) -> urllib3.HTTPResponse:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content_type
        method, url, headers, *rest = client.param_serialize(
            method,
            asked.resource.path(asked.namespace, asked.name),
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        timeout = (self._timeout, patience or self._timeout)
        answer = client.call_api(method, url, headers, rest[0], _request_timeout=timeout)
        response: urllib3.HTTPResponse = answer.response
        return response

    def _reconnect(self, refused: ApiClient) -> bool:
        """Read the credentials again, unless somebody just did; whether it is worth another try."""
        with self._lock:
            if self._client is not refused:
                return True
            if time.monotonic() - self._loaded < _RELOAD_PAUSE:
                return False
            self._loaded = time.monotonic()
            try:
                self._client = self._connect()
            except ApiFailure as failure:
                log.warning("%s", failure)
                return False
        return True


def _selectors(labels: str, fields: str) -> dict[str, str]:
    found = {"labelSelector": labels, "fieldSelector": fields}
    return {key: text for key, text in found.items() if text}
