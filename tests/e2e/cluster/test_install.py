"""`tunnelctl install` and `uninstall` on a real apiserver, with real controllers; no pod runs."""

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests.e2e.cluster.admission import WORDS, Admission, admission
from tests.e2e.cluster.conftest import _control_plane
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.controllers import (
    CONTROL_PLANE,
    EDGE,
    Kubelets,
    Pod,
    add_namespace,
    add_node,
    controllers,
    eventually,
)
from tests.e2e.system import BIN
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.state_layout import KIND, LABELS
from tunnelctl.cli import INTERRUPTED, main
from tunnelctl.demo.processes import Processes
from tunnelctl.errors import FAILED, NOT_REACHABLE, OK, REFUSED, WRONG_USE
from tunnelctl.install import preflight

NETWORKS = ("--edge-networks", "192.168.0.0/16")
SERVER = ("--server-address", "tunnel.example.org")
KINDS = (
    "namespaces,configmaps,secrets,services,serviceaccounts,pods,deployments,daemonsets,replicasets,controllerrevisions,"
    "roles,rolebindings,clusterroles,clusterrolebindings,poddisruptionbudgets,nodes,networkpolicies"
)
# A command that is interrupted leaves its connection to the end of the process, which here goes on.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")
Run = Callable[..., "Ended"]
Found = dict[str, dict[str, Any]]


class Ended:
    """A command that ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        self.said = out + err


@pytest.fixture(scope="module")
def kubelets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelets]:
    """A cluster with a control-plane node and two edges, of which nothing runs but the control plane."""
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("install")
        made = _control_plane(stack, directory)
        (logs := directory / "controllers").mkdir()
        stack.enter_context(controllers(made, stack.enter_context(Processes(logs))))
        add_node(made, "cp-1", "10.0.0.10", CONTROL_PLANE)
        add_node(made, "edge-1", "192.168.1.7", EDGE)
        add_node(made, "edge-2", "192.168.2.7", EDGE)
        add_namespace(made, "shop")
        eventually(
            lambda: "default" in made.kubectl("get", "serviceaccount", "-n", "kube-system", "-o", "name")
        )
        kubelets = stack.enter_context(Kubelets(made))
        kubelets.plane = made  # type: ignore[attr-defined]
        yield kubelets


@pytest.fixture
def plane(kubelets: Kubelets, request: pytest.FixtureRequest) -> Iterator[ControlPlane]:
    """The cluster, as every test finds it and has to leave it."""
    made: ControlPlane = kubelets.plane  # type: ignore[attr-defined]
    if "namespace_there" in request.fixturenames:
        request.getfixturevalue("namespace_there")
    before = objects(made)
    kubelets.seen.clear()
    yield made
    with contextlib.suppress(pytest.fail.Exception):  # pods take a moment to end
        eventually(lambda: same(objects(made)) == same(before), seconds=5)
    assert same(objects(made)) == same(before)


@pytest.fixture
def tunnelctl(plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, kubeconfig: Path = plane.kubeconfig, code: int = OK) -> Ended:
        capsys.readouterr()
        ended = Ended(main([*words, "--kubeconfig", str(kubeconfig)]), *capsys.readouterr())
        assert ended.code == code, ended.said
        assert len(ended.err.splitlines()) <= 1
        return ended

    return run


@pytest.fixture(scope="module")
def namespace_there(kubelets: Kubelets) -> None:
    """For the tests below, somebody made our namespace before: to delete one takes a cluster six seconds."""
    plane: ControlPlane = kubelets.plane  # type: ignore[attr-defined]
    add_namespace(plane, "edge-tunnel")


@pytest.fixture
def installed(namespace_there: None, tunnelctl: Run) -> Iterator[Run]:
    """With an installation, which goes at the end."""
    tunnelctl("install", *NETWORKS, *SERVER)
    yield tunnelctl
    tunnelctl("uninstall", "--keep-node-state")


@pytest.fixture
def gate(plane: ControlPlane) -> Iterator[Admission]:
    with admission(plane) as made:
        # It counts once kube-apiserver has noticed it.
        metadata = {"name": "probe", "namespace": "shop", "labels": {"app.kubernetes.io/name": "edge-tunnel"}}
        probe = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

        def counts() -> bool:
            plane.apply(probe)
            plane.kubectl("delete", "configmap", "probe", "-n", "shop")
            return bool(made.asked)

        eventually(counts)
        made.asked.clear()
        yield made


def objects(plane: ControlPlane) -> Found:
    """Every object, but those that a cluster changes by itself."""
    found = json.loads(plane.kubectl("get", KINDS, "--all-namespaces", "-o", "json"))["items"]
    return {
        f"{each['kind']} {each['metadata'].get('namespace', '')}/{each['metadata']['name']}": each
        for each in found
    }


def same(found: Found) -> Found:
    """What of them matters: not which revision it is, nor when fields were written, nor pods that end."""
    plain = json.loads(json.dumps(found))
    for key in [key for key, each in plain.items() if "deletionTimestamp" in each["metadata"]]:
        if key.startswith("Pod "):  # its node's kubelet takes its time
            del plain[key]
    for each in plain.values():
        for key in ("resourceVersion", "generation"):
            each["metadata"].pop(key, None)
        each["metadata"].get("annotations", {}).pop("deprecated.daemonset.template.generation", None)
        each["metadata"]["managedFields"] = [
            {**entry, "time": ""}
            for entry in each["metadata"].get("managedFields", ())
            if entry.get("subresource") != "status" and entry["manager"] != "kube-controller-manager"
        ]
        each.pop("status", None)
    kept: Found = plain
    return kept


def ours(found: Found) -> set[str]:
    return {
        key
        for key, each in found.items()
        if each["metadata"].get("labels", {}).get("app.kubernetes.io/part-of")
    }


def add_state(plane: ControlPlane, *names: str) -> None:
    """Secrets as a server makes them."""
    for name in names:
        metadata = {"name": name, "namespace": "edge-tunnel", "labels": {**LABELS, KIND: "authority"}}
        plane.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata})


def test_a_dry_run_changes_nothing(plane: ControlPlane, tunnelctl: Run) -> None:
    before = objects(plane)
    told = tunnelctl("install", *NETWORKS, "--dry-run").out
    assert "would make Deployment edge-tunnel/tunnel-server" in told
    assert told.endswith("nothing was changed\n")
    assert objects(plane) == before


def test_install_again_and_uninstall(plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets) -> None:
    told = tunnelctl("install", *NETWORKS, *SERVER, "--wait").out
    assert "made DaemonSet edge-tunnel/tunnel-agent" in told
    assert told.endswith("installed, and running\n")
    first = objects(plane)
    config = first["ConfigMap edge-tunnel/tunnel-server-config"]["data"]["server.toml"]
    assert 'server-addresses = ["tunnel.example.org:10262"]' in config
    assert 'edge-networks = ["192.168.0.0/16"]' in config
    # What is not said again stays.
    assert tunnelctl("install").out.endswith("nothing was changed: all is as it would be installed\n")
    assert same(objects(plane)) == same(first)
    changed = tunnelctl("install", "--image", "registry.example.org/edge-tunnel:2", "--dry-run").out
    assert "containers[0].image: edge-tunnel:0.1.0 -> registry.example.org/edge-tunnel:2" in changed
    gone = tunnelctl("uninstall").out
    gone_edges = {each["spec"]["nodeName"] for each in kubelets.seen if "cleanup" in each["metadata"]["name"]}
    assert gone_edges == {"edge-1", "edge-2", "cp-1"}
    assert "removed the state of agents from their hosts\n" in gone
    assert "removed the server's sockets from their hosts\n" in gone
    assert gone.endswith("uninstalled\n")
    assert not ours(objects(plane))
    assert tunnelctl("uninstall").out == "nothing to remove: no install made anything here\n"


def test_a_namespace_with_others_things_stays(plane: ControlPlane, tunnelctl: Run) -> None:
    tunnelctl("install", *NETWORKS, *SERVER)
    add_state(plane, "edge-tunnel-ca")
    policy = {"podSelector": {}, "policyTypes": ["Ingress"]}
    metadata = {"name": "mine", "namespace": "edge-tunnel"}
    rule = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": policy,
    }
    plane.apply(rule)
    plane.kubectl("create", "secret", "generic", "tunnel-server-tls", "-n", "edge-tunnel")
    ended = tunnelctl("uninstall", "--keep-node-state", code=FAILED)
    (left,) = [line for line in ended.out.splitlines() if line.startswith("left: ")]
    assert left.startswith("left: Namespace edge-tunnel, for what is not the tunnel's in it: ")
    assert set(left.partition(" in it: ")[2].split(", ")) == {
        "NetworkPolicy edge-tunnel/mine",
        "Secret edge-tunnel/tunnel-server-tls",
    }
    assert plane.kubectl("get", "secrets", "-n", "edge-tunnel", "-o", "name") == "secret/tunnel-server-tls\n"
    plane.kubectl("delete", "networkpolicy/mine", "secret/tunnel-server-tls", "-n", "edge-tunnel")
    assert tunnelctl("uninstall").out.endswith("uninstalled\n")


def test_what_another_installed_is_left_alone(plane: ControlPlane, tunnelctl: Run) -> None:
    import tunnelctl as package

    manifests = Path(package.__file__).parent / "manifests" / "edge-tunnel.yaml"
    plane.kubectl("apply", "-f", str(manifests))
    try:
        before = objects(plane)
        ended = tunnelctl("install", *NETWORKS, *SERVER, code=REFUSED)
        assert 'conflict with "kubectl-client-side-apply"' in ended.out
        assert "-> written by kubectl-client-side-apply: set these fields there" in ended.out
        refused = tunnelctl("uninstall", code=REFUSED)
        assert "was not installed by `tunnelctl install`: Namespace edge-tunnel (" in refused.err
        assert same(objects(plane)) == same(before)
    finally:
        plane.kubectl("delete", "-f", str(manifests), timeout=60)


def test_a_failure_takes_back_the_namespace_too(plane: ControlPlane, tunnelctl: Run, gate: Admission) -> None:
    before = objects(plane)
    gate.refuses = lambda what: what.startswith("Deployment")
    ended = tunnelctl("install", *NETWORKS, *SERVER, code=FAILED)
    assert WORDS in ended.err
    assert "  deleted Namespace edge-tunnel again\n" in ended.out
    assert same(objects(plane)) == same(before)


@pytest.mark.usefixtures("namespace_there")
def test_a_failure_at_any_step_takes_back_all(plane: ControlPlane, tunnelctl: Run, gate: Admission) -> None:
    before = objects(plane)
    report = json.loads(tunnelctl("install", *NETWORKS, *SERVER, "--dry-run", "--json").out)["objects"]
    named = [(each["kind"], f"{each['namespace'] or ''}/{each['name']}".lstrip("/")) for each in report]
    steps = [" ".join(each) for each in named]
    assert len(steps) > 15
    assert not gate.asked
    for step in steps:
        gate.refuses = lambda what, step=step: what == step
        ended = tunnelctl("install", *NETWORKS, *SERVER, code=FAILED)
        assert WORDS in ended.err
        assert ended.err.endswith("everything is as it was before\n")
        assert same(objects(plane)) == same(before), step
    assert set(steps) <= set(gate.asked)


@pytest.mark.usefixtures("namespace_there")
def test_edges_are_cleaned_where_they_are(plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets) -> None:
    tunnelctl("install", *NETWORKS, *SERVER, "--wait")
    add_node(plane, "edge-2", "192.168.2.7", EDGE, ready=False)
    try:
        ended = tunnelctl("uninstall", code=FAILED)
    finally:
        add_node(plane, "edge-2", "192.168.2.7", EDGE)
    assert "edge-2 is away: pod tunnel-agent-" in ended.out
    assert "left: the state of agents on edge-2; there: rm -r /var/lib/edge-tunnel-agent\n" in ended.out
    removers = [each for each in kubelets.seen if each["metadata"]["name"].startswith("tunnel-agent-cleanup")]
    assert {each["spec"]["nodeName"] for each in removers} == {"edge-1"}
    assert removers[0]["spec"]["volumes"][0]["hostPath"]["path"] == "/var/lib"
    assert removers[0]["spec"]["initContainers"][0]["command"][-1] == "/host/edge-tunnel-agent"


def test_a_failed_change_is_put_back(plane: ControlPlane, installed: Run, gate: Admission) -> None:
    before = objects(plane)
    asked: list[str] = []

    def third(what: str) -> bool:
        asked.append(what)
        return len(asked) == 3

    gate.refuses = third
    ended = installed("install", "--server-address", "other.example.org", "--image", "other:1", code=FAILED)
    assert ended.out.count("changed ") == 2
    assert ended.out.count("put back ") == 3
    assert same(objects(plane)) == same(before)


@pytest.mark.usefixtures("namespace_there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_install_is_taken_back(
    number: signal.Signals, plane: ControlPlane, tunnelctl: Run, gate: Admission
) -> None:
    before = objects(plane)

    def interrupt(what: str) -> bool:
        if what == "DaemonSet edge-tunnel/tunnel-agent":
            os.kill(os.getpid(), number)
        return False

    gate.refuses = interrupt
    ended = tunnelctl("install", *NETWORKS, *SERVER, code=INTERRUPTED)
    assert "interrupted; taking back what was done:\n" in ended.out
    assert same(objects(plane)) == same(before)


@pytest.mark.usefixtures("namespace_there")
def test_an_apiserver_that_restarts_meanwhile_is_waited_for(
    plane: ControlPlane, tunnelctl: Run, gate: Admission
) -> None:
    reached = threading.Event()
    gate.refuses = lambda _: bool(reached.set())
    words = [BIN / "tunnelctl", "install", *NETWORKS, *SERVER, "--kubeconfig", plane.kubeconfig]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as installing:
        assert reached.wait(20)
        plane.restart_api()
        told, _ = installing.communicate(timeout=40)
    assert installing.returncode == OK, told
    assert "made Deployment edge-tunnel/tunnel-server\n" in told
    tunnelctl("uninstall", "--keep-node-state")


@pytest.mark.usefixtures("namespace_there")
def test_what_does_not_start_is_taken_back(plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets) -> None:
    before = objects(plane)
    kubelets.runs = lambda pod: not pod["metadata"]["name"].startswith("tunnel-agent")
    try:
        ended = tunnelctl("install", *NETWORKS, *SERVER, "--wait", "--timeout", "3s", code=FAILED)
    finally:
        kubelets.runs = lambda _: True
    assert "after 3 s agents are not linked on edge-1, edge-2: pod tunnel-agent-" in ended.err
    eventually(lambda: same(objects(plane)) == same(before))


@pytest.mark.usefixtures("namespace_there")
def test_what_a_server_made_goes_where_the_namespace_stays(plane: ControlPlane, tunnelctl: Run) -> None:
    """After an uninstall, and where what made it is long gone, by Helm perhaps."""
    tunnelctl("install", *NETWORKS, *SERVER)
    add_state(plane, "edge-tunnel-ca")
    assert "deleted Secret edge-tunnel/edge-tunnel-ca\n" in tunnelctl("uninstall", "--keep-node-state").out
    add_state(plane, "edge-tunnel-ca", "edge-tunnel-token-1")
    told = tunnelctl("uninstall").out
    assert "removed the state of agents from their hosts\n" in told
    assert "deleted Secret edge-tunnel/edge-tunnel-token-1\n" in told


@pytest.mark.usefixtures("namespace_there")
def test_a_failed_install_takes_back_what_its_server_made(
    plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets
) -> None:
    """But not what was there before, by `tunnelctl restore`."""
    add_state(plane, "edge-tunnel-ca")
    before = objects(plane)

    def runs(pod: Pod) -> bool:
        if pod["metadata"]["name"].startswith("tunnel-server-") and "cleanup" not in pod["metadata"]["name"]:
            add_state(plane, "edge-tunnel-server")
        return not pod["metadata"]["name"].startswith("tunnel-agent")

    kubelets.runs = runs
    try:
        ended = tunnelctl("install", *NETWORKS, *SERVER, "--wait", "--timeout", "2s", code=FAILED)
    finally:
        kubelets.runs = lambda _: True
    assert "deleted Secret edge-tunnel/edge-tunnel-server\n" in ended.out
    assert "removed the server's sockets from their hosts\n" in ended.out
    assert ended.err.endswith("everything is as it was before\n")
    eventually(lambda: same(objects(plane)) == same(before))
    plane.kubectl("delete", "secret", "edge-tunnel-ca", "-n", "edge-tunnel")


def interrupted_uninstall(tunnelctl: Run, kubelets: Kubelets) -> None:
    """One that is told to end as the edges are about to be cleaned."""

    def runs(pod: Pod) -> bool:
        if "tunnel-agent-cleanup" in pod["metadata"]["name"]:
            os.kill(os.getpid(), signal.SIGTERM)
        return "cleanup" not in pod["metadata"]["name"]

    kubelets.runs = runs
    try:
        tunnelctl("uninstall", code=INTERRUPTED)
    finally:
        kubelets.runs = lambda _: True
    kubelets.seen.clear()


@pytest.mark.usefixtures("namespace_there")
def test_an_interrupted_uninstall_is_finished_by_the_next(
    plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets
) -> None:
    tunnelctl("install", *NETWORKS, *SERVER, "--wait")
    interrupted_uninstall(tunnelctl, kubelets)
    assert "DaemonSet edge-tunnel/tunnel-agent-cleanup" not in objects(plane)
    said = tunnelctl("uninstall").out
    assert "removed the state of agents from their hosts\n" in said
    assert "removed the server's sockets from their hosts\n" in said
    cleaned = {each["spec"]["nodeName"] for each in kubelets.seen if "cleanup" in each["metadata"]["name"]}
    assert cleaned >= {"edge-1", "edge-2"}


@pytest.mark.usefixtures("namespace_there")
def test_an_uninstall_that_was_interrupted_may_be_thought_better_of(
    plane: ControlPlane, tunnelctl: Run, kubelets: Kubelets
) -> None:
    tunnelctl("install", *NETWORKS, *SERVER)
    interrupted_uninstall(tunnelctl, kubelets)
    assert tunnelctl("install", *NETWORKS, *SERVER, "--wait").out.endswith("installed, and running\n")
    tunnelctl("uninstall", "--keep-node-state")


@pytest.mark.usefixtures("namespace_there")
def test_agents_that_cannot_be_made_are_no_success(plane: ControlPlane, tunnelctl: Run) -> None:
    """As where a quota forbids their priority."""
    hard = {"hard": {"count/pods": "1"}}
    metadata = {"name": "few", "namespace": "edge-tunnel"}
    plane.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": hard})
    eventually(
        lambda: "count/pods" in plane.kubectl("get", "resourcequota/few", "-n", "edge-tunnel", "-o", "json")
    )
    try:
        ended = tunnelctl("install", *NETWORKS, *SERVER, "--wait", "--timeout", "3s", code=FAILED)
        assert "FailedCreate" in ended.err
        assert "exceeded quota" in ended.err
    finally:
        plane.kubectl("delete", "resourcequota", "few", "-n", "edge-tunnel")


@pytest.mark.usefixtures("namespace_there")
def test_uninstall_of_half_an_install(plane: ControlPlane, tunnelctl: Run) -> None:
    tunnelctl("install", *NETWORKS, *SERVER)
    plane.kubectl("delete", "deployment/tunnel-server", "serviceaccount/tunnel-server", "-n", "edge-tunnel")
    plane.kubectl("delete", "clusterrole", "edge-tunnel-server")
    assert "gave back Namespace edge-tunnel\n" in tunnelctl("uninstall").out


def test_an_older_kubernetes_says_its_service_range_when_asked(plane: ControlPlane) -> None:
    before = objects(plane)
    cluster = Cluster(partial(from_kubeconfig, plane.kubeconfig))
    assert preflight.service_networks(cluster, (1, 32), ()) == ((ip_network("10.96.0.0/16"),), [ANY])
    assert preflight.service_networks(cluster, (1, 33), ()) == ((), [])
    cluster.close()
    assert objects(plane) == before


def test_other_edges_and_networks(plane: ControlPlane, installed: Run) -> None:
    options = [
        "--edge-selector",
        "site=factory",
        "--edge-selector",
        "kind in (gateway)",
        "--pod-networks",
        "10.9.0.0/16",
    ]
    told = installed("install", *options).out
    assert "-> kubectl label node NAME site=factory, now or later" in told
    config = objects(plane)["ConfigMap edge-tunnel/tunnel-server-config"]["data"]["server.toml"]
    assert 'node-selector = ["site=factory", "kind in (gateway)"]' in config
    assert 'pod-networks = ["10.9.0.0/16"]' in config
    assert "all is as it would be installed" in installed("install").out
    wrong = installed("install", "--edge-selector", "a b", code=WRONG_USE).err
    assert "--edge-selector: expected a label selector" in wrong


def test_who_may_not_is_told_before(plane: ControlPlane, tunnelctl: Run) -> None:
    limited = plane.as_user("limited")
    kinds = "nodes,pods,services,namespaces,configmaps,deployments.apps,daemonsets.apps"
    rules = ["--verb=get,list,create,patch,delete", f"--resource={kinds}"]
    plane.kubectl("create", "clusterrole", "limited", *rules)
    plane.kubectl("create", "clusterrolebinding", "limited", "--clusterrole=limited", "--user=limited")
    try:
        before = objects(plane)
        ended = tunnelctl("install", *NETWORKS, kubeconfig=limited, code=REFUSED)
        assert "✗ rights" in ended.out
        assert (
            "you may not get poddisruptionbudgets.policy in edge-tunnel, create poddisruptionbudgets"
            in ended.out
        )
        assert "another --context or --kubeconfig" in ended.out
        assert ended.out.endswith("nothing was changed: 1 problem above\n")
        nobody = tunnelctl("install", *NETWORKS, kubeconfig=plane.as_user("nobody"), code=REFUSED)
        assert "you may not list nodes, list pods" in nobody.out
        assert objects(plane) == before
    finally:
        plane.kubectl("delete", "clusterrolebinding,clusterrole", "limited")


def test_no_apiserver_is_one_line(plane: ControlPlane, tunnelctl: Run, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.write_text(plane.kubeconfig.read_text().replace(f":{plane.port}", ":1"))
    assert "nothing listens there" in tunnelctl("install", *NETWORKS, kubeconfig=away, code=NOT_REACHABLE).err
    assert "no such file" in tunnelctl("install", kubeconfig=tmp_path / "none", code=WRONG_USE).err
    assert "--edge-networks 192.168.1.0/24,192.168.2.0/24" in tunnelctl("install", code=WRONG_USE).err


def test_a_taken_port_is_named_with_its_owner(plane: ControlPlane, tunnelctl: Run) -> None:
    container = {"name": "c", "image": "i", "ports": [{"containerPort": 10264}]}
    spec = {"nodeName": "cp-1", "hostNetwork": True, "containers": [container]}
    plane.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": "shop"}, "spec": spec}
    )
    ended = tunnelctl("install", *NETWORKS, *SERVER, code=REFUSED)
    assert "✗ ports           10264 on cp-1: pod shop/other" in ended.out
    plane.kubectl("delete", "pod", "other", "-n", "shop")


@contextlib.contextmanager
def yurt_tunnel(plane: ControlPlane) -> Iterator[None]:
    """As its chart has it, as far as it matters."""

    def workload(kind: str, name: str, labels: dict[str, str], **more: Any) -> dict[str, Any]:
        selector = {"matchLabels": {"k8s-app": name}}
        containers = [{"name": name, "image": f"openyurt/{name}:v0.6.0"}]
        pod = {
            "hostNetwork": True,
            "nodeSelector": labels,
            "containers": containers,
            "tolerations": [{"operator": "Exists"}],
        }
        template = {"metadata": {"labels": {"k8s-app": name}}, "spec": pod}
        spec = {**more, "selector": selector, "template": template}
        metadata = {"name": name, "namespace": "kube-system", "labels": {"k8s-app": name}}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}

    settings = {"name": "yurt-tunnel-server-cfg", "namespace": "kube-system"}
    made = [
        workload("Deployment", "yurt-tunnel-server", CONTROL_PLANE, replicas=1),
        workload("DaemonSet", "yurt-tunnel-agent", EDGE),
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": settings,
            "data": {"dnat-ports-pair": "9081=10264"},
        },
    ]
    plane.apply(*made)
    eventually(lambda: yurt_pods(plane) == 3)
    try:
        yield
    finally:
        for each in made:
            plane.kubectl("delete", each["kind"], each["metadata"]["name"], "-n", "kube-system")
        eventually(lambda: yurt_pods(plane) == 0)


def yurt_pods(plane: ControlPlane) -> int:
    """How many of its pods run."""
    names = plane.kubectl(
        "get", "pods", "-n", "kube-system", "--field-selector=status.phase=Running", "-o", "name"
    )
    return names.count("pod/yurt-tunnel-")


@pytest.mark.usefixtures("namespace_there")
def test_yurt_tunnel_is_replaced_on_request_and_comes_back(plane: ControlPlane, tunnelctl: Run) -> None:
    with yurt_tunnel(plane):
        before = objects(plane)
        ended = tunnelctl("install", *NETWORKS, *SERVER, code=REFUSED)
        assert "Deployment kube-system/yurt-tunnel-server (openyurt/yurt-tunnel-server:v0.6.0)" in ended.out
        assert "--replace-yurt-tunnel stops it first" in ended.out
        assert objects(plane) == before
        told = tunnelctl("install", *NETWORKS, *SERVER, "--replace-yurt-tunnel", "--wait").out
        stopped, made = (
            told.index("stopped DaemonSet kube-system/yurt-tunnel-agent"),
            told.index("Namespace edge-tunnel"),
        )
        assert stopped < made
        assert yurt_pods(plane) == 0
        config = "ConfigMap kube-system/yurt-tunnel-server-cfg"
        assert objects(plane)[config] == before[config]
        assert tunnelctl("install", "--replace-yurt-tunnel").out.endswith("all is as it would be installed\n")
        assert "started Deployment kube-system/yurt-tunnel-server again" in tunnelctl("uninstall").out
        eventually(lambda: yurt_pods(plane) == 3)
        assert objects(plane)[config] == before[config]


@pytest.mark.usefixtures("namespace_there")
def test_yurt_tunnel_is_put_back_if_ours_fails(plane: ControlPlane, tunnelctl: Run, gate: Admission) -> None:
    gate.refuses = lambda what: what.startswith("DaemonSet")
    with yurt_tunnel(plane):
        before = objects(plane)["Deployment kube-system/yurt-tunnel-server"]["spec"]
        ended = tunnelctl("install", *NETWORKS, *SERVER, "--replace-yurt-tunnel", code=FAILED)
        assert "started DaemonSet kube-system/yurt-tunnel-agent again" in ended.out
        eventually(lambda: yurt_pods(plane) == 3)
        assert objects(plane)["Deployment kube-system/yurt-tunnel-server"]["spec"] == before
