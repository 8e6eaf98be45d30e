"""The ways in of docs/kubernetes/apiserver.md, for a kube-apiserver in a static pod with the lines of there.

With EgressSelector on, whatever kube-apiserver calls in the cluster comes to the tunnel, and must work.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.cluster import dns, metrics
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import APISERVER, NETWORKS, put, shown
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.cluster.static_apiserver import StaticApiserver
from tests.e2e.cluster.test_kubectl import protocols
from tests.e2e.cluster.webhook import REFUSAL, webhook, webhook_service
from tests.e2e.system import BIN, curl

UNIX_SOCKET, MUTUAL_TLS, BY_NAME = "unix-socket", "mutual-tls", "by-name"
NAMED = [f"{UNIX_SOCKET}, names", f"{MUTUAL_TLS}, names", BY_NAME]
"""Where kube-apiserver calls nodes by name: two with one address are told apart."""
_NAMES_FIRST = "--kubelet-preferred-address-types=Hostname"
_PAGE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "page", "namespace": "default"},
    "spec": {"selector": {"app": "app-cloud"}, "ports": [{"port": 8000, "targetPort": 80}]},
}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def installed(cluster: Cluster, installation: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """With the values that the page shows, CoreDNS with what the server keeps for it, and metrics-server."""
    directory = tmp_path_factory.mktemp("ways-in")
    cluster.control_plane.configure_api()
    cloud = f"{cluster.topology.cloud.address}/32"
    values = yaml.safe_load(shown(APISERVER, "yaml", "config: |", "callers.local"))
    # As the page says: a caller's rights are a further table of the same setting.
    values["server"]["config"] += shown(APISERVER, "toml", "callers.kube-apiserver")
    by_name = put(shown(APISERVER, "yaml", "byName"), **{"10.50.0.0/24": cloud})
    cluster.run("cloud")
    # Now: kube-proxy asks a kube-apiserver that was replaced as late as a minute afterwards.
    cluster.control_plane.apply(*webhook_service(cluster), _PAGE)
    dns.install(cluster, directory)
    installation.install(yaml.safe_dump(values), by_name, shown(NETWORKS, "yaml", "callerNetworks"))
    metrics.install(cluster, directory)
    names = ("get", "-n", "kube-system", "configmap", "yurt-tunnel-nodes")
    kept = (*names, "-o", "jsonpath={.data.tunnel-nodes}")
    cluster.until(lambda: cluster.control_plane.try_kubectl(*kept).stdout.count("\n") == len(cluster.nodes))
    dns.hurry(cluster, "1")
    cloud_host = cluster.topology.cloud
    asks = ["nslookup", "edge-2.", dns.DNS]
    cluster.until(lambda: "10.96." in cloud_host.run(["busybox", *asks]).stdout.partition("Name:")[2])
    return installation


@pytest.fixture(scope="module")
def apiserver_pod(cluster: Cluster, caller: dict[str, str]) -> Iterator[StaticApiserver]:
    """In the place of kube-apiserver; what needs that one has been made before."""
    made = StaticApiserver(cluster)
    with made.running():
        yield made


@pytest.fixture(scope="module")
def caller(cluster: Cluster, installed: Shipped, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a caller's certificate, made by the page's command."""
    (home := tmp_path_factory.mktemp("home") / ".kube").mkdir()
    (home / "config").symlink_to(cluster.control_plane.kubeconfig)
    command = shown(APISERVER, "console", "tunnelctl caller create").removeprefix("$ ")
    done = subprocess.run(
        cluster.topology.cloud.command(["sh", "-c", command]), cwd=home.parent, check=False,
        env={"HOME": str(home.parent), "PATH": f"{BIN}:{os.environ['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = home.parent / shlex.split(command)[-1]
    return {
        name.replace(".", "_"): (folder / name).read_text() for name in ("ca.crt", "caller.crt", "caller.key")
    }


@pytest.fixture(scope="module")
def way(request: pytest.FixtureRequest, apiserver_pod: StaticApiserver, caller: dict[str, str]) -> str:
    """The lines of one way; `names` if kube-apiserver calls nodes by name."""
    wanted: str = request.param
    fragments = []
    files = {}
    if wanted != BY_NAME:
        fragments.append(shown(APISERVER, "yaml", "--egress-selector-config-file"))
        transport = "udsName" if wanted.startswith(UNIX_SOCKET) else "tlsConfig"
        text = shown(APISERVER, "yaml", transport)
        if wanted.startswith(MUTUAL_TLS):
            text = put(text, **{"tunnel.example.org": apiserver_pod.cluster.topology.cloud.address})
            files = caller
        files["egress_yaml"] = text
    if not wanted.startswith(UNIX_SOCKET) or "names" in wanted:
        fragments.append(shown(APISERVER, "yaml", _NAMES_FIRST))
    apiserver_pod.configure(*fragments, **files)
    return wanted


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("way", "edge"),
    [(UNIX_SOCKET, "edge-3"), *((way, edge) for way in NAMED for edge in ("edge-1", "edge-2"))],
    indirect=["way"],
    scope="module",
)
class TestEdges:
    def test_logs(self, cluster: Cluster, edge: str) -> None:
        assert re.fullmatch(r"tick \d+\n", cluster.kubectl("logs", "--tail=1", f"app-{edge}", "-c", "main"))

    @protocols
    def test_exec(self, cluster: Cluster, edge: str, env: dict[str, str]) -> None:
        words = ["exec", f"app-{edge}", "-c", "main", "--", "hostname"]
        assert cluster.control_plane.try_kubectl(*words, env=env).stdout == f"app-{edge}\n"

    @protocols
    def test_port_forward(self, cluster: Cluster, edge: str, env: dict[str, str]) -> None:
        words = cluster.control_plane.kubectl_command("port-forward", f"pod/app-{edge}", "8888:80", env=env)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forwarder:
            try:
                assert forwarder.stdout is not None
                assert forwarder.stdout.readline() == "Forwarding from 127.0.0.1:8888 -> 80\n"
                answer = curl(cluster.topology.cloud, "http://127.0.0.1:8888/").stdout
                assert answer == f"hello from app-{edge}\n"
            finally:
                forwarder.kill()

    def test_the_kubelets_metrics(self, cluster: Cluster, edge: str) -> None:
        metrics = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{edge}/proxy/metrics")
        assert f'kubelet_node_name{{node="{edge}"}} 1\n' in metrics


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("way", [UNIX_SOCKET, f"{MUTUAL_TLS}, names"], indirect=True, scope="module")
class TestWhatElseKubeApiserverCalls:
    def test_a_node_in_the_cloud(self, cluster: Cluster) -> None:
        assert re.fullmatch(r"tick \d+\n", cluster.kubectl("logs", "--tail=1", "app-cloud", "-c", "main"))
        metrics = cluster.kubectl("get", "--raw", "/api/v1/nodes/cloud/proxy/metrics")
        assert 'kubelet_node_name{node="cloud"} 1\n' in metrics

    def test_a_webhook_behind_a_service(self, cluster: Cluster) -> None:
        create = ("create", "configmap", "unwanted")
        with webhook(cluster) as asked:
            # It is called once kube-apiserver has heard of it.
            cluster.until(lambda: REFUSAL in cluster.control_plane.try_kubectl(*create).stderr)
        assert set(asked) == {"unwanted"}
        cluster.kubectl("delete", "configmap", "unwanted", "--ignore-not-found")

    def test_a_pod_and_a_service_by_proxy(self, cluster: Cluster) -> None:
        where = "/api/v1/namespaces/default"
        for what in ("pods/app-cloud:80", "services/page:8000"):
            assert cluster.until(lambda what=what: _get(cluster, f"{where}/{what}/proxy/")) == (
                "hello from app-cloud\n"
            )

    def test_an_aggregated_api(self, cluster: Cluster) -> None:
        """metrics-server's, for the top of an edge."""
        top = ("top", "node", "edge-3", "--no-headers")
        shown = cluster.until(lambda: cluster.control_plane.try_kubectl(*top).stdout, timeout=60)
        assert re.match(r"edge-3 +\d+m +\d+% +\d+Mi +\d+% *\n", shown)


def _get(cluster: Cluster, path: str) -> str:
    return cluster.control_plane.try_kubectl("get", "--raw", path).stdout
