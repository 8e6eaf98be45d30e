"""Validating webhooks: a server in the test that kube-apiserver asks about objects, and its registration."""

import contextlib
import http.server
import json
import socket
import ssl
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.objects import Object

Answer = Callable[[Object], Mapping[str, Any]]
"""What a request of an AdmissionReview is answered, `uid` aside."""


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of a kube-apiserver that hangs up, as it does when its own caller has gone."""
        if not isinstance(sys.exception(), OSError):
            raise  # noqa: PLE0704 - within an except clause of the caller's


@contextlib.contextmanager
def reviewing(
    plane: ControlPlane, name: str, listener: socket.socket, host: str, answer: Answer, *objects: Object
) -> Iterator[None]:
    """Serve reviews at `listener`, as `host` by the cluster's authority; within, `objects` are there."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            review["response"] = {"uid": review["request"]["uid"], **answer(review["request"])}
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    pair = plane.authority.issue(name, host, sans=[host], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with _Server(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = context.wrap_socket(listener, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            plane.apply(*objects)
            try:
                yield
            finally:
                plane.delete(*objects)
        finally:
            server.shutdown()
            thread.join()


def registration(
    plane: ControlPlane, name: str, rule: Mapping[str, Any], client: Mapping[str, Any], **selector: Object
) -> Object:
    """The object that has kube-apiserver call `client` about what `rule` names, and fail if it can't."""
    webhook = {
        "name": "test.edge-tunnel.io", "rules": [rule], "sideEffects": "None", "failurePolicy": "Fail",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 5, **selector,
        "clientConfig": {**client, "caBundle": b64encode(plane.authority.ca.read_bytes()).decode()},
    }  # fmt: skip
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": name}, "webhooks": [webhook]}
