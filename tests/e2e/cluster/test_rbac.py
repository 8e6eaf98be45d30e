"""The server with exactly the rights that are shipped: enough, and none that it never uses."""

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import render
from tests.e2e.cluster import audit
from tests.e2e.cluster.components.released import HELM
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.system import BIN, toml
from tunnelctl.admin_client import ask
from tunnelctl.demo.processes import Processes
from tunnelctl.errors import CommandError

NAMESPACE = "edge-tunnel"
SERVER = f"system:serviceaccount:{NAMESPACE}:tunnel-server"
AGENT = f"system:serviceaccount:{NAMESPACE}:tunnel-agent"
EDGE = {"openyurt.io/is-edge-worker": "true"}
PORT = 20262

UNUSED = {
    ("patch", "events"): "an Event that happens again is told again ten minutes later",
}
"""Rights that no test of seconds can see used, and what for they are there."""


class Running:
    """A control plane that writes down who asks what, and a server, as its ServiceAccount."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self.directory = directory
        self.processes = processes
        self.plane = ControlPlane(directory, processes)
        self.log = directory / "audit.log"
        (policy := directory / "audit.yaml").write_text(audit.POLICY)
        self.plane.start(audit_policy_file=str(policy), audit_log_path=str(self.log))
        options = (render.REQUIRED[1], "--set=createNamespace=true", "--set=server.byName.enabled=true")
        address = f"--set=serverAddresses={{127.0.0.1:{PORT}}}"
        self.objects = [
            each for each in yaml.safe_load_all(render.template(HELM.place(), address, *options)) if each
        ]
        self.plane.apply(*self.objects)
        self.admin = directory / "admin.sock"

    def start_server(self) -> None:
        """With the shipped configuration, at ports of its own, without what needs its host's network."""
        (configured,) = [each for each in self.objects if each["metadata"]["name"] == "tunnel-server-config"]
        shipped = configured["data"]["server.toml"]
        kept = [line for line in shipped.splitlines() if "-port = " not in line]
        here = {
            "tunnel-port": PORT,
            "secure-port": 0,
            "insecure-port": 0,
            "meta-port": 0,
            "intercept": False,
            "state-dir": self.directory / "state",
            "admin-socket": self.admin,
        }
        account = self.plane.as_service_account(NAMESPACE, "tunnel-server")
        (config := self.directory / "server.toml").write_text(
            toml(here) + "\n".join([*kept, f"kubeconfig = {json.dumps(str(account))}", ""])
        )
        self.processes.start("server", [BIN / "tunnel-server", "--config", config])
        self.until(self._answers)

    def start_agent(self, node: str) -> None:
        """Attested by a pod of the shipped DaemonSet on `node`."""
        uid = json.loads(
            self.plane.kubectl("get", "daemonset", "tunnel-agent", "-n", NAMESPACE, "-o", "json")
        )
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "tunnel-agent", "controller": True}
        name = f"tunnel-agent-{node}"
        spec = {
            "nodeName": node,
            "serviceAccountName": "tunnel-agent",
            "containers": [{"name": "tunnel-agent", "image": "x"}],
        }
        about = {"name": name, "namespace": NAMESPACE}
        about["ownerReferences"] = [{**owner, "uid": uid["metadata"]["uid"]}]  # type: ignore[assignment]
        self.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec})
        token = self.directory / f"{node}.token"
        token.write_text(self.plane.token(NAMESPACE, "tunnel-agent", audience="tunnel", pod=name))
        bundle = self.plane.kubectl(
            "get", "configmap", "edge-tunnel-ca", "-n", NAMESPACE, "-o", r"jsonpath={.data.ca\.crt}"
        )
        (ca := self.directory / "ca.crt").write_text(bundle)
        words = ["--service-account-token", token, "--ca-file", ca, "--node-name", node]
        words += ["--server", f"127.0.0.1:{PORT}", "--health-port", "0"]
        words += ["--state-dir", self.directory / node]
        self.processes.start(node, [BIN / "tunnel-agent", "run", *words])
        self.until(lambda: self.nodes().get(node, {}).get("connected"), node)

    def ctl(self, *words: str) -> str:
        """`tunnelctl` of the cluster's administrator."""
        argv = [BIN / "tunnelctl", *words, "--kubeconfig", self.plane.kubeconfig]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def nodes(self) -> dict[str, Any]:
        return {each["name"]: each for each in ask(self.admin, "GET", "/v1/nodes")["nodes"]}

    def asked(self) -> set[audit.Request]:
        return audit.requests(self.log, SERVER)

    def until(self, condition: Callable[[], object], *logs: str) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            tails = "\n".join(self.processes.tail(name, 30) for name in ("server", *logs))
            refused = sorted(str(each) for each in self.asked() if each.code == 403)
            assert "server" not in self.processes.ended(), tails
            assert time.monotonic() < deadline, f"not within 30 s\n{refused}\n{tails}"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return bool(ask(self.admin, "GET", "/v1/status"))
        except CommandError:
            return False


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("rbac")
    (logs := directory / "logs").mkdir()
    with Processes(logs) as processes:
        made = Running(directory, processes)
        yield made
        processes.end_all()


def add_node(plane: ControlPlane, name: str, address: str, labels: dict[str, str]) -> None:
    plane.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
    status = {"status": {"addresses": [{"type": "InternalIP", "address": address}]}}
    words = ["patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status)]
    plane.kubectl(*words)


def events(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    listed = json.loads(plane.kubectl("get", "events", "-n", namespace, "-o", "json"))["items"]
    return [each for each in listed if each["source"].get("component") == "tunnel-server"]


def test_it_does_all_that_it_does_with_these_rights_and_uses_each(running: Running) -> None:
    plane = running.plane
    add_node(plane, "cloud-1", "10.50.0.2", {})
    add_node(plane, "edge-1", "192.168.2.143", EDGE)
    for name in ("edge-7", "edge-8"):
        add_node(plane, name, "192.168.2.150", EDGE)
    running.start_server()

    # Nodes, and an address that two claim.
    running.until(lambda: {"edge-1", "edge-7", "edge-8"} <= running.nodes().keys())
    running.until(lambda: events(plane, "default"))
    # The lists of ports, with a bad entry.
    lists = {"http-proxy-ports": "9100, 99999"}
    about = {"name": "yurt-tunnel-server-cfg", "namespace": "kube-system"}
    plane.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": lists})
    running.until(lambda: events(plane, "kube-system"))
    # Names for CoreDNS, twice: made, and changed.
    add_node(plane, "edge-9", "192.168.2.151", EDGE)
    words = ["get", "configmap", "yurt-tunnel-nodes", "-n", "kube-system", "--ignore-not-found", "-o", "json"]
    running.until(lambda: "edge-9" in plane.kubectl(*words))
    # An agent in the cluster, and one elsewhere, by a token.
    running.start_agent("edge-1")
    line = shlex.split(running.ctl("token", "create", "--node", "lathe-1", "--ip", "192.168.3.3"))
    joined = [BIN / line[0], *line[1:], "--state-dir", running.directory / "lathe-1"]
    done = subprocess.run(joined, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Revoked, and forgotten.
    running.ctl("revoke", "lathe-1")
    argv = [BIN / "tunnelctl", "nodes", "forget", "lathe-1", "--admin-socket", running.admin]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    asked = running.asked()
    assert sorted(str(each) for each in asked if each.code in {401, 403}) == []
    outside = [
        each for each in asked if not any(right.covers(each) for right in audit.rights(running.objects))
    ]
    assert outside == [], "allowed by somebody else's rule"
    unused = {
        right
        for right in audit.rights(running.objects)
        if not any(right.covers(each) for each in asked) and (right.verb, right.resource) not in UNUSED
    }
    assert sorted(map(str, unused)) == [], "never used: no right, then"


@pytest.mark.parametrize(
    "words",
    [
        ["get", "secrets", "-n", "kube-system"],
        ["list", "secrets", "-A"],
        ["get", "nodes/proxy"],
        ["create", "pods", "-n", NAMESPACE],
        ["create", "pods/exec", "-n", NAMESPACE],
        ["update", "nodes"],
        ["update", "configmaps/tunnel-server-config", "-n", NAMESPACE],
        ["update", "configmaps/coredns", "-n", "kube-system"],
        ["patch", "daemonsets/tunnel-agent", "-n", NAMESPACE],
        ["create", "serviceaccounts/token", "-n", NAMESPACE],
        ["impersonate", "users"],
    ],
)
def test_nobody_gets_far_with_a_token_of_the_server(running: Running, words: list[str]) -> None:
    assert _may(running.plane, SERVER, *words) == "no"
    assert _may(running.plane, SERVER, "list", "nodes") == "yes", "or the question is wrong"


def test_an_agent_may_nothing(running: Running) -> None:
    anybody = f"system:serviceaccount:{NAMESPACE}:nobody"
    for namespace in (NAMESPACE, "kube-system", "default"):
        listed = ["--list", "-n", namespace]
        assert _may(running.plane, AGENT, *listed) == _may(running.plane, anybody, *listed)


def _may(plane: ControlPlane, user: str, *words: str) -> str:
    groups = ["--as-group=system:serviceaccounts", "--as-group=system:authenticated"]
    return plane.try_kubectl("auth", "can-i", *words, f"--as={user}", *groups).stdout.strip()
