"""The manifests are what the chart renders, and a real kube-apiserver takes every object, every field."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy import render
from tests.e2e.cluster.components.released import HELM
from tests.e2e.cluster.control_plane import ControlPlane
from tunnelctl.demo.processes import Processes

EVERYTHING = (
    *render.REQUIRED,
    "--set=createNamespace=true",
    "--set=server.callerNetworks={10.244.0.0/16}",
    "--set=server.byName.enabled=true",
    "--set=server.byName.networks={10.50.0.0/24}",
    "--set=server.byName.ports[0].name=ekuiper,server.byName.ports[0].port=9081,server.byName.ports[0].tls=false",
    "--set=server.seLinuxOptions.type=spc_t",
    "--set-json=server.config=\"log-format = 'json'\\n[limits]\\ncalls = 100\"",
    "--set-json=agent.config=\"allow = ['node:10250']\"",
    "--set=publicService.type=NodePort,publicService.nodePort=31008",
    "--set=metrics.enabled=true",
    "--set=image.pullSecrets={registry}",
)
"""Every option but the one for which a cluster needs the Prometheus operator."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One of its own: names in it are the shipped ones."""
    directory = tmp_path_factory.mktemp("manifests")
    (logs := directory / "logs").mkdir()
    with Processes(logs) as processes:
        made = ControlPlane(directory, processes)
        made.start()
        yield made
        made.close()


def test_the_plain_yaml_is_what_the_chart_renders() -> None:
    stale = [
        str(path)
        for path, text in render.rendered(HELM.place()).items()
        if (render.ROOT / path).read_text() != text
    ]
    assert stale == [], "run `make manifests`"


def test_everything_applies_and_nothing_of_it_is_unknown(plane: ControlPlane) -> None:
    words = ["apply", "--server-side", "--validate=strict", "-f", str(render.ROOT / render.MANIFESTS)]
    applied = plane.kubectl(*words).splitlines()
    kinds = [each["kind"] for each in yaml.safe_load_all((render.ROOT / render.MANIFESTS).read_text())]
    assert len(applied) == len(kinds)
    assert plane.kubectl(*words).splitlines() == applied, "applied again, it is the same"
    # A kubectl of before server-side apply, and what GitOps tools do.
    plane.kubectl("apply", "--server-side=false", "--validate=strict", *words[-2:])


def test_what_every_option_renders_applies(plane: ControlPlane) -> None:
    text = render.template(HELM.place(), *EVERYTHING)
    plane.kubectl("apply", "--server-side", "--force-conflicts", "--validate=strict", "-f", "-", stdin=text)
    ports = json.loads(plane.kubectl("get", "service", "-n", "edge-tunnel", "-o", "json"))["items"]
    assert {each["metadata"]["name"]: each["spec"]["ports"][0]["port"] for each in ports} == {
        "tunnel-server": 10262,
        "tunnel-server-internal": 10250,
        "tunnel-server-metrics": 10265,
        "tunnel-server-public": 10262,
    }


def test_the_static_pod_is_a_pod(plane: ControlPlane) -> None:
    path = str(render.ROOT / render.STATIC_POD)
    # Created without the ServiceAccount that admission would give it, as the kubelet does with its mirror.
    plane.kubectl("create", "--dry-run=client", "--validate=strict", "-f", path)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "serverAddresses is empty"),
        (render.REQUIRED[:1], "edgeNetworks is empty"),
        ((*render.REQUIRED, "--set=server.replicas=2"), "/server/replicas"),
        ((*render.REQUIRED, "--set=image.pullPolicy=Always"), "/image/pullPolicy"),
        ((*render.REQUIRED, "--set=agents.config=x"), "additional properties 'agents' not allowed"),
        (("--set=serverAddresses={https://tunnel.example.org}",), "/serverAddresses/0"),
        (("--set=edgeNetworks={192.168.0.7}",), "/edgeNetworks/0"),
        ((*render.REQUIRED, "--kube-version=1.32.0"), "--service-cluster-ip-range"),
        ((*render.REQUIRED, "--set=metrics.serviceMonitor.enabled=true"), "wants metrics.enabled"),
    ],
)
def test_a_wrong_value_is_named(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        render.template(HELM.place(), *options)
    assert says in raised.value.stderr


def test_a_service_monitor_scrapes_what_serves_metrics() -> None:
    text = render.template(HELM.place(), *EVERYTHING, "--set=metrics.serviceMonitor.enabled=true")
    objects = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    monitor = objects["ServiceMonitor", "tunnel-server"]["spec"]
    service = objects["Service", "tunnel-server-metrics"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    others = [each for (kind, _), each in objects.items() if kind == "Service" and each is not service]
    for each in others:
        assert not monitor["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()


def test_helm_installs_and_uninstalls_it(plane: ControlPlane, tmp_path: Path) -> None:
    """The release as docs/kubernetes/install.md makes it, in a cluster that has the namespace."""
    plane.kubectl("delete", "--wait=false", "-f", str(render.ROOT / render.MANIFESTS))
    plane.namespace("tunnel")
    words = [HELM.place(), "--kubeconfig", plane.kubeconfig, "--namespace", "tunnel"]
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}

    def run(*more: str) -> str:
        done = subprocess.run([*words, *more], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("install", "edge-tunnel", str(render.CHART), *render.REQUIRED)
    assert json.loads(run("list", "-o", "json"))[0]["status"] == "deployed"
    subjects = json.loads(plane.kubectl("get", "clusterrolebinding", "edge-tunnel-server", "-o", "json"))
    assert subjects["subjects"][0]["namespace"] == "tunnel"
    run("upgrade", "edge-tunnel", str(render.CHART), *render.REQUIRED, "--set=metrics.enabled=true")
    run("uninstall", "edge-tunnel")
    left = plane.kubectl("get", "deploy,ds,svc,cm,sa", "-n", "tunnel", "-o", "name").split()
    assert left == ["serviceaccount/default"]
