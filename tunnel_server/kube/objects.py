"""What a person's command does to objects of a cluster: apply, change, remove; and asking whether it may."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import urllib3

from tunnel_server.kube.client import Cluster
from tunnel_server.kube.execution import execute
from tunnel_server.kube.failures import ApiFailure, Asked, no_answer
from tunnel_server.kube.references import Reference
from tunnel_server.kube.resources import NODES, PODS, SERVICES, Resource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kubernetes.client import ApiClient

    from tunnel_server.kube.execution import Finished
    from tunnel_server.kube.resources import Object

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a request is tried again while the apiserver is away, or too busy."""

_REVIEWS = Resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", "authorization.k8s.io")
_NO_SERVICES = "192.88.99.1"
"""Of a range that nobody uses any more (RFC 7526)."""
_APPLY = "application/apply-patch+yaml"


@dataclass(frozen=True, slots=True)
class _Below(Resource):
    """What is served below an object: `pods/log`."""

    below: str = ""

    def path(self, namespace: str = "", name: str = "") -> str:
        return f"{Resource.path(self, namespace, name)}/{self.below}"

    def __str__(self) -> str:
        return f"{Resource.__str__(self)}/{self.below.partition('/')[0]}"


class Objects(Cluster):
    """A cluster for one command.

    Every method raises ApiFailure. But for `version` and `read`, each is tried again for `patience` seconds
    while nobody answers: repeating it does no harm.
    """

    def __init__(
        self, connect: Callable[[], ApiClient], *, timeout: float = 10.0, patience: float = PATIENCE
    ) -> None:
        super().__init__(connect, timeout=timeout)
        self._patience = patience

    def find(self, reference: Reference) -> Object | None:
        """Return an object; None if there is none."""
        try:
            return self._patiently(lambda: self.get(reference.resource, reference.name, reference.namespace))
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise

    def all_of(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> list[Object]:
        """Return all objects of a kind, in one namespace or in all, that the selectors match."""
        found, _ = self._patiently(lambda: self.list_all(resource, namespace, labels=labels, fields=fields))
        # Those of a list do not say what they are.
        about = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [{**about, **each} for each in found]

    def apply_object(self, manifest: Object, manager: str, *, dry_run: bool = False) -> tuple[Object, bool]:
        """Apply server-side; returns the object as it is then, and whether this very request made it."""
        reference = Reference.of(manifest)
        asked = Asked("patch", reference.resource, reference.namespace, reference.name)
        query = {"fieldManager": manager, **_dry(dry_run)}

        def send() -> tuple[Object, bool]:
            response = self._ask(asked, "PATCH", manifest, query=query, content_type=_APPLY)
            return response.json(), response.status == 201

        return self._patiently(send)

    def change(self, reference: Reference, change: Object) -> Object:
        """Change some fields of an object by a JSON merge patch."""
        return self._patiently(
            lambda: self.merge(reference.resource, reference.name, change, reference.namespace)
        )

    def remove(
        self, reference: Reference, *, uid: str = "", at_once: bool = False, dry_run: bool = False
    ) -> bool:
        """Delete an object, and then what it made; False if there was none, or another than that of `uid`.

        `at_once` waits for no kubelet: for pods of a machine that is away.
        """
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if at_once:
            body["gracePeriodSeconds"] = 0
        if uid:
            body["preconditions"] = {"uid": uid}
        asked = Asked("delete", reference.resource, reference.namespace, reference.name)
        try:
            self._patiently(lambda: self._json(asked, "DELETE", body, query=_dry(dry_run)))
        except ApiFailure as failure:
            if failure.status == 404 or (failure.status == 409 and uid):
                return False
            raise
        return True

    def may(self, verb: str, resource: Resource, namespace: str = "", *, below: str = "") -> bool:
        """Whether the user may; `below` names a subresource."""
        return self._review(resource.group, resource.plural, verb, namespace, below)

    def may_everything(self) -> bool:
        """Whether the user is a cluster administrator: one question instead of many."""
        return self._review("*", "*", "*", "", "")

    def _review(self, group: str, resource: str, verb: str, namespace: str, below: str) -> bool:
        attributes = {
            "verb": verb, "group": group, "resource": resource, "subresource": below, "namespace": namespace,
        }  # fmt: skip
        review = self._patiently(lambda: self.create(_REVIEWS, {"spec": {"resourceAttributes": attributes}}))
        return bool(review["status"]["allowed"])

    def version(self) -> tuple[int, int]:
        """Return major and minor version of the apiserver. Asked once: it tells whether there is one."""
        answer = self._json(Asked("get", _Path("/version", "the apiserver's version")), "GET")
        return int(answer["major"]), int(answer["minor"].rstrip("+"))

    def service_range(self) -> tuple[str, ...]:
        """Return the service range, read from why a Service with an address outside of it is refused.

        Empty if that does not say it. Nothing is made.
        """
        outside = {
            "metadata": {"generateName": "edge-tunnel-probe-"},
            "spec": {"clusterIP": _NO_SERVICES, "ports": [{"port": 1}]},
        }
        asked = Asked("create", SERVICES, "default")
        body = {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, **outside}
        try:
            self._json(asked, "POST", body, query=_dry(True))
        except ApiFailure as failure:
            found = re.search(r"range of valid IPs is ([0-9a-fA-F.:]+/[0-9]+)", str(failure))
            return (found[1],) if found else ()
        return ()

    def log(self, pod: Object, container: str, *, lines: int, previous: bool = False) -> str:
        """Return the end of a container's log, or of its predecessor's."""
        query = {
            "container": container, "tailLines": str(lines), "previous": str(previous).lower(),
        }  # fmt: skip
        metadata = pod["metadata"]
        return self._read("pods", metadata["name"], metadata["namespace"], "log", query)

    def ask_kubelet(self, node: str, path: str) -> str:
        """Return a page of a node's kubelet, through the apiserver, which dials it as it does for `logs`."""
        return self._read("nodes", node, "", f"proxy/{path}")

    def execute(self, pod: Object, container: str, command: list[str], *, timeout: float) -> Finished:
        """Run a command in a container and wait for its end, `timeout` seconds at most."""
        metadata = pod["metadata"]
        return execute(
            self._client, metadata["namespace"], metadata["name"], container, command, timeout=timeout
        )

    def _read(
        self, plural: str, name: str, namespace: str, below: str, query: Mapping[str, str] | None = None
    ) -> str:
        kind = {"pods": PODS, "nodes": NODES}[plural]
        asked = Asked("get", _Below(plural, kind.kind, below=below), namespace, name)
        response = self._ask(asked, "GET", query=query)
        try:
            return response.data.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise no_answer(self.host, asked, error) from None

    def _patiently(self, request: Callable[[], T]) -> T:
        for pause in _pauses(self._patience):
            try:
                return request()
            except ApiFailure as failure:
                if pause is None or failure.lasting:
                    raise
            time.sleep(pause)
        raise AssertionError  # the last turn has no pause


@dataclass(frozen=True, slots=True)
class _Path(Resource):
    """A page that is no object's; `plural` is its path, `kind` what to call it."""

    def path(self, namespace: str = "", name: str = "") -> str:
        return self.plural

    def __str__(self) -> str:
        return self.kind


def _dry(dry_run: bool) -> dict[str, str]:
    return {"dryRun": "All"} if dry_run else {}


def _pauses(patience: float) -> Iterator[float | None]:
    """Yield the seconds to wait after each failed try, then None: there is no other."""
    end, pause = time.monotonic() + patience, 0.5
    while time.monotonic() + pause < end:
        yield pause
        pause = min(2 * pause, 5.0)
    yield None
