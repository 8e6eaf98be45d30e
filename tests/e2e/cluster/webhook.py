"""A webhook in the cluster that refuses ConfigMaps, and the Service by which kube-apiserver calls it."""

import contextlib
import http.server
import json
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.objects import service
from tests.e2e.network import listen

_ADDRESS = "10.96.200.2"
REFUSAL = "the webhook does not like this"


@contextlib.contextmanager
def webhook(cluster: Cluster) -> Iterator[list[str]]:
    """One for every ConfigMap in the namespace `default`, and the names that it was asked about."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(review["request"]["name"])
            review["response"] = {
                "uid": review["request"]["uid"], "allowed": False, "status": {"message": REFUSAL},
            }  # fmt: skip
            body = json.dumps(review).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    plane, cloud = cluster.control_plane, cluster.topology.cloud
    name = "webhook.default.svc"
    pair = plane.authority.issue("webhook", name, sans=[name], server=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = context.wrap_socket(listen(cloud, (cloud.address, 9443)), server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        rule = {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "operations": ["CREATE"],
            "resources": ["configmaps"],
        }
        registered = {
            "name": "test.edge-tunnel.io", "rules": [rule], "sideEffects": "None", "failurePolicy": "Fail",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "clientConfig": {
                "service": {"name": "webhook", "namespace": "default"},
                "caBundle": b64encode(plane.authority.ca.read_bytes()).decode(),
            },
        }  # fmt: skip
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        plane.apply(*service("webhook", _ADDRESS, 443, (cloud.address, 9443)))
        plane.apply({**kind, "metadata": {"name": "webhook"}, "webhooks": [registered]})
        try:
            yield asked
        finally:
            plane.kubectl("delete", "validatingwebhookconfiguration/webhook", "service/webhook")
            server.shutdown()
            thread.join()
