"""With EgressSelector on, whatever kube-apiserver calls in the cluster comes to the tunnel, and must work."""

import contextlib
import http.server
import json
import re
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster import metrics
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.objects import service
from tests.e2e.cluster.tunnel import egress_selector
from tests.e2e.network import listen
from tests.e2e.system import System

WEBHOOK = "10.96.200.2"


@pytest.fixture(scope="module", autouse=True)
def egress(cluster: Cluster, tunnel: System) -> None:
    """Over the Unix socket; nodes are called by address, as kubeadm has it."""
    cluster.control_plane.configure_api(
        egress_selector_config_file=str(egress_selector(tunnel, "unix-socket"))
    )


@pytest.mark.parametrize("node", ["edge-3", "cloud"])
def test_logs_of_an_edge_and_of_a_node_in_the_cloud(cluster: Cluster, node: str) -> None:
    cluster.run(node)
    assert re.fullmatch(r"tick \d+\n", cluster.kubectl("logs", "--tail=1", f"app-{node}", "-c", "main"))


def test_a_webhook_behind_a_service(cluster: Cluster) -> None:
    with _webhook(cluster) as asked:
        done = cluster.control_plane.try_kubectl("create", "configmap", "unwanted")
        assert "the webhook does not like this" in done.stderr
    assert asked == ["unwanted"]


@contextlib.contextmanager
def _webhook(cluster: Cluster) -> Iterator[list[str]]:
    """One that refuses every ConfigMap in the namespace `default`, and the names that it was asked about."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            review = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(review["request"]["name"])
            status = {"message": "the webhook does not like this"}
            review["response"] = {"uid": review["request"]["uid"], "allowed": False, "status": status}
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
        webhook = {
            "name": "test.edge-tunnel.io", "rules": [rule], "sideEffects": "None", "failurePolicy": "Fail",
            "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
            "clientConfig": {
                "service": {"name": "webhook", "namespace": "default"},
                "caBundle": b64encode(plane.authority.ca.read_bytes()).decode(),
            },
        }  # fmt: skip
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
        plane.apply(*service("webhook", WEBHOOK, 443, (cloud.address, 9443)))
        plane.apply({**kind, "metadata": {"name": "webhook"}, "webhooks": [webhook]})
        try:
            yield asked
        finally:
            plane.kubectl("delete", "validatingwebhookconfiguration/webhook", "service/webhook")
            server.shutdown()
            thread.join()


@pytest.mark.timeout(150)
def test_top_through_a_metrics_server_in_a_pod(cluster: Cluster, tunnel: System, tmp_path: Path) -> None:
    """An aggregated API: kube-apiserver calls the pod; the pod calls kubelets at their addresses."""
    tunnel.wait_ready("edge-3")
    metrics.install(cluster, tmp_path)

    def top(*words: str) -> str:
        return cluster.control_plane.try_kubectl("top", *words, "--no-headers").stdout

    # It wants to have seen each twice, ten seconds apart.
    cluster.until(lambda: "edge-3" in top("node", "edge-3"), timeout=60)
    assert re.match(r"cloud +\d+m +\d+% +\d+Mi +\d+% *\n", top("node", "cloud"))
    cluster.until(lambda: "app-edge-3" in top("pod", "app-edge-3"), timeout=60)
    assert re.match(r"app-edge-3 +\d+m +\d+Mi *\n", top("pod", "app-edge-3"))
