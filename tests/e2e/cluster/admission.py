"""A validating webhook that refuses what a test wants refused, at the moment it says."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.objects import Object
from tests.e2e.cluster.reviews import registration, reviewing

WORDS = "the test forbids it"
_NAME = "test-admission"
_RULE = {
    "apiGroups": ["*"],
    "apiVersions": ["*"],
    "operations": ["CREATE", "UPDATE"],
    "resources": ["*"],
    "scope": "*",
}
_OURS = {"matchLabels": {"app.kubernetes.io/name": "edge-tunnel"}}


class Admission:
    """What is asked of it, and how it answers. Dry runs are always let through, as nothing comes of them."""

    def __init__(self) -> None:
        self.refuses: Callable[[str], bool] = lambda _: False
        """By `Kind namespace/name` or `Kind name`."""
        self.asked: list[str] = []
        """Writes that were not dry runs."""

    def answer(self, request: Object) -> dict[str, Any]:
        """Allow it, or not."""
        kind, namespace = request["kind"]["kind"], request.get("namespace")
        where = f"{namespace}/" if namespace and kind != "Namespace" else ""
        what = f"{kind} {where}{request['name']}"
        if not request.get("dryRun"):
            self.asked.append(what)
            if self.refuses(what):
                return {"allowed": False, "status": {"code": 422, "message": WORDS}}
        return {"allowed": True}


@contextlib.contextmanager
def admission(plane: ControlPlane) -> Iterator[Admission]:
    """Be asked about every object with the tunnel's label that is made or changed."""
    asked = Admission()
    listener = socket.create_server(("127.0.0.1", 0))
    url = {"url": f"https://127.0.0.1:{listener.getsockname()[1]}/"}
    registered = registration(plane, _NAME, _RULE, url, objectSelector=_OURS)
    with reviewing(plane, _NAME, listener, "127.0.0.1", asked.answer, registered):
        yield asked
