"""A validating webhook that refuses what a test wants refused, at the moment it says."""

import contextlib
import http.server
import json
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any

from tests.e2e.cluster.control_plane import ControlPlane

WORDS = "the test forbids it"


class Admission:
    """What is asked of it, and how it answers. Dry runs are always let through, as nothing comes of them."""

    def __init__(self) -> None:
        self.refuses: Callable[[str], bool] = lambda _: False
        """By `Kind namespace/name` or `Kind name`."""
        self.asked: list[str] = []
        """Writes that were not dry runs."""

    def answer(self, review: dict[str, Any]) -> dict[str, Any]:
        request = review["request"]
        where = (
            f"{request['namespace']}/"
            if request.get("namespace") and request["kind"]["kind"] != "Namespace"
            else ""
        )
        what = f"{request['kind']['kind']} {where}{request['name']}"
        response: dict[str, Any] = {"uid": request["uid"], "allowed": True}
        if not request.get("dryRun"):
            self.asked.append(what)
            if self.refuses(what):
                response |= {"allowed": False, "status": {"code": 422, "message": WORDS}}
        return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a kube-apiserver that hangs up, as it does when its own caller has gone."""
        if not isinstance(sys.exception(), OSError):
            raise  # noqa: PLE0704 - within an except clause of the caller's


@contextlib.contextmanager
def admission(plane: ControlPlane) -> Iterator[Admission]:
    """Be asked about every object with the tunnel's label that is made or changed."""
    asked = Admission()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            body = json.dumps(asked.answer(review)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    pair = plane.authority.issue("admission", "admission", sans=["127.0.0.1"], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with _Server(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        plane.apply(_webhook(plane, server.server_port))
        try:
            yield asked
        finally:
            plane.kubectl("delete", "validatingwebhookconfiguration", "test-admission")
            server.shutdown()
            thread.join()


def _webhook(plane: ControlPlane, port: int) -> dict[str, Any]:
    authority = b64encode(plane.authority.ca.read_bytes()).decode()
    rule = {
        "apiGroups": ["*"],
        "apiVersions": ["*"],
        "operations": ["CREATE", "UPDATE"],
        "resources": ["*"],
        "scope": "*",
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "test-admission"},
        "webhooks": [{
            "name": "test.edge-tunnel.io", "rules": [rule], "sideEffects": "None", "failurePolicy": "Fail",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "objectSelector": {"matchLabels": {"app.kubernetes.io/name": "edge-tunnel"}},
            "clientConfig": {"url": f"https://127.0.0.1:{port}/", "caBundle": authority},
        }],
    }  # fmt: skip
