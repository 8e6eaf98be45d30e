"""Who calls an edge at its own address from the cloud: programs on the server's host, and pods."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import NETWORKS, shown
from tests.e2e.cluster.objects import Object, pod
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.system import System, missing

ADDRESS = "192.168.3.9"
_PAGE = f"http://{ADDRESS}:9081/"
# What is installed on this computer, in a pod: its programs are not in an image.
_FOLDERS = ("/usr", "/lib", "/lib64")
_CURL = ("/usr/bin/curl", "-sS", "--max-time", "10")
_NAME = {"name": "prometheus", "namespace": "default"}


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: Cluster, installation: Shipped) -> Iterator[None]:
    """With callers in pods, and edge-3 has a web service on 9081 that only it knows of."""
    cluster.control_plane.configure_api()
    installation.install(shown(NETWORKS, "yaml", "callerNetworks"))
    edge = cluster.topology.host("edge-3")
    System(cluster.topology, cluster.directory, cluster.processes).serve(edge, "http", 9081)
    installation.ctl("map-port", "9081=10264")
    mapped = ["curl", "-sS", "--max-time", "2", _PAGE]
    cluster.until(lambda: cluster.topology.cloud.run(mapped).returncode == 0)
    yield
    cluster.processes.end("http-edge-3-9081")
    cluster.kubectl("-n", "kube-system", "delete", "configmap/yurt-tunnel-server-cfg")


@pytest.fixture(scope="module")
def inside(cluster: Cluster, credentials: str) -> Iterator[list[str]]:
    """The words of kubectl that run a program in a pod of the cloud node's pod network.

    The pod has what is installed on this computer, and the configuration of Prometheus.
    """
    plane = cluster.control_plane
    files = {"prometheus.yml": _configuration(credentials, "/configuration/ca.crt")}
    data = {**files, "ca.crt": plane.authority.ca.read_text()}
    mounts = [{"name": name.strip("/"), "mountPath": name, "readOnly": True} for name in _FOLDERS]
    volumes: list[Object] = [{"name": name.strip("/"), "hostPath": {"path": name}} for name in _FOLDERS]
    container = {
        "name": "main",
        "command": ["sleep", "inf"],
        "volumeMounts": [*mounts, {"name": "configuration", "mountPath": "/configuration"}],
    }
    volumes.append({"name": "configuration", "configMap": {"name": "inside"}})
    metadata = {"name": "inside", "namespace": "default"}
    plane.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data},
        pod("inside", "cloud", container, volumes=volumes),
    )
    cluster.kubectl("wait", "--for=condition=Ready", "--timeout=40s", "pod/inside")
    yield ["exec", "inside", "--"]
    cluster.kubectl("delete", "pod/inside", "configmap/inside", "--grace-period=1")


def test_a_pod_calls_a_service_of_the_edge(cluster: Cluster, inside: list[str]) -> None:
    own = cluster.kubectl("get", "pod", "inside", "-o", "jsonpath={.status.podIP}")
    assert own.startswith("10.244."), "it is not in its host's network"
    answer = json.loads(cluster.kubectl(*inside, *_CURL, _PAGE))
    assert answer["machine"] == "edge-3"


@pytest.fixture(scope="module")
def credentials(cluster: Cluster) -> str:
    """The token of a ServiceAccount that may read kubelets' metrics, as Prometheus is given one."""
    plane = cluster.control_plane
    group = "rbac.authorization.k8s.io"
    rule = {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}
    role = {"apiGroup": group, "kind": "ClusterRole", "name": "prometheus"}
    named = {"apiVersion": f"{group}/v1", "metadata": {"name": "prometheus"}}
    subjects = [{"kind": "ServiceAccount", **_NAME}]
    plane.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _NAME},
        {"kind": "ClusterRole", **named, "rules": [rule]},
        {"kind": "ClusterRoleBinding", **named, "roleRef": role, "subjects": subjects},
    )
    return plane.token("default", "prometheus")


@pytest.mark.skipif(bool(missing("prometheus")), reason="prometheus is not installed")
class TestPrometheus:
    def test_on_the_servers_host(self, cluster: Cluster, credentials: str, tmp_path: Path) -> None:
        config = tmp_path / "prometheus.yml"
        config.write_text(_configuration(credentials, str(cluster.control_plane.authority.ca)))
        cloud = cluster.topology.cloud
        words = cloud.command(_prometheus(str(config), str(tmp_path / "data")))
        cluster.processes.start("prometheus", words)
        try:
            _has_scraped(cluster, lambda url: cloud.run([*_CURL, url]).stdout)
        finally:
            cluster.processes.end("prometheus")

    def test_in_a_pod(self, cluster: Cluster, inside: list[str]) -> None:
        plane = cluster.control_plane
        words = _prometheus("/configuration/prometheus.yml", "/tmp/data")
        cluster.processes.start("prometheus", plane.kubectl_command(*inside, *words))
        try:
            _has_scraped(cluster, lambda url: plane.try_kubectl(*inside, *_CURL, url).stdout)
        finally:
            cluster.processes.end("prometheus")


def _prometheus(config: str, data: str) -> list[str]:
    where = [f"--config.file={config}", f"--storage.tsdb.path={data}", "--web.listen-address=127.0.0.1:9090"]
    return ["/usr/bin/prometheus", *where, "--log.level=warn"]


def _configuration(token: str, authority: str) -> str:
    job = {
        "job_name": "kubelets",
        "scheme": "https",
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "authorization": {"credentials": token},
        "tls_config": {"ca_file": authority},
        "static_configs": [{"targets": [f"{ADDRESS}:10250"]}],
    }
    return json.dumps({"scrape_configs": [job]})


def _has_scraped(cluster: Cluster, get: Callable[[str], str]) -> None:
    def answer() -> list[Object]:
        try:
            said = json.loads(get("http://127.0.0.1:9090/api/v1/query?query=kubelet_node_name"))
        except ValueError:  # it is not up yet
            return []
        found: list[Object] = said["data"]["result"]
        return found

    (series,) = cluster.until(answer, "prometheus", timeout=30)
    assert series["metric"]["node"] == "edge-3"
    assert series["metric"]["instance"] == f"{ADDRESS}:10250"
