"""Agents attested by a real kube-apiserver: whose token is taken, whose is not, and while it is away."""

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.system import BIN, toml
from tunnel_agent.credentials import load_credentials
from tunnel_server.attestor import AttestationRefusedError, AttestationUnavailableError, Attested
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.attestation import PodAttestor
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.settings import KubernetesSettings
from tunnelctl.admin_client import ask
from tunnelctl.demo.processes import Processes
from tunnelctl.errors import CommandError

AGENT, AUDIENCE = "tunnel-agent", "tunnel"


class Tenant:
    """A namespace with the agents' DaemonSet, whose pods a test makes; and a server's account, to ask as."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        about = {"name": AGENT, "namespace": namespace}
        labels = {"app": AGENT}
        template = {"metadata": {"labels": labels}, "spec": self._spec(None)}
        rules = [
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
            {"apiGroups": ["apps"], "resources": ["daemonsets"], "verbs": ["get"], "resourceNames": [AGENT]},
        ]
        reviews = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
        server = {"kind": "ServiceAccount", "name": "server", "namespace": namespace}
        rbac, group = "rbac.authorization.k8s.io/v1", "rbac.authorization.k8s.io"
        within = {"name": "server", "namespace": namespace}
        plane.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": about},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {**about, "name": "other"}},
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": within},
            {
                "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": about,
                "spec": {"selector": {"matchLabels": labels}, "template": template},
            },
            {"apiVersion": rbac, "kind": "Role", "metadata": within, "rules": rules},
            {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": namespace}, "rules": [reviews]},
            {
                "apiVersion": rbac, "kind": "RoleBinding", "metadata": within, "subjects": [server],
                "roleRef": {"apiGroup": group, "kind": "Role", "name": "server"},
            },
            {
                "apiVersion": rbac, "kind": "ClusterRoleBinding", "metadata": {"name": namespace},
                "subjects": [server],
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": namespace},
            },
        )  # fmt: skip
        kubeconfig = plane.as_service_account(namespace, "server")
        self.settings = KubernetesSettings(namespace=namespace, request_timeout=2.0)
        self.cluster = Cluster(partial(from_kubeconfig, kubeconfig), timeout=2.0)

    @staticmethod
    def _spec(node: str | None, account: str = AGENT) -> dict[str, Any]:
        spec = {"serviceAccountName": account, "containers": [{"name": "agent", "image": "x"}]}
        return spec if node is None else {**spec, "nodeName": node}

    def pod(self, pod: str, node: str | None = "edge-1", *, account: str = AGENT, **owner: Any) -> str:
        """A pod of the DaemonSet's, but for what is said of its `owner`; its UID."""
        said = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": AGENT, "controller": True, **owner}
        said.setdefault("uid", self.get("daemonset", AGENT)["metadata"]["uid"])
        about = {"name": pod, "namespace": self.namespace, "ownerReferences": [said]}
        spec = self._spec(node, account)
        self.plane.apply({"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec})
        return str(self.get("pod", pod)["metadata"]["uid"])

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.plane.kubectl("get", kind, name, "-n", self.namespace, "-o", "json")
        )
        return found

    def delete(self, kind: str, name: str) -> None:
        words = ("delete", kind, name, "-n", self.namespace, "--force", "--grace-period=0", "--wait=true")
        self.plane.kubectl(*words)

    def token(self, pod: str | None, *, account: str = AGENT, audience: str = AUDIENCE) -> str:
        return self.plane.token(self.namespace, account, audience=audience, pod=pod)

    def attest(self, token: str) -> Attested:
        async def ask() -> Attested:
            return await PodAttestor(self.cluster, self.settings).attest(token)

        return trio.run(ask)

    def refusal(self, token: str) -> str:
        with pytest.raises(AttestationRefusedError) as caught:
            self.attest(token)
        return caught.value.code


_count = itertools.count(1)


@pytest.fixture(scope="module")
def tenant(apiserver: ControlPlane) -> Iterator[Tenant]:
    made = Tenant(apiserver, apiserver.namespace("attestation"))
    yield made
    made.cluster.close()


@pytest.fixture
def pod(tenant: Tenant) -> str:
    """The name of a pod of the DaemonSet on edge-1."""
    name = f"tunnel-agent-{next(_count)}"
    tenant.pod(name)
    return name


def test_a_pod_of_the_daemon_set(tenant: Tenant, pod: str) -> None:
    attested = tenant.attest(tenant.token(pod))
    uid = tenant.get("pod", pod)["metadata"]["uid"]
    assert (attested.node, attested.evidence) == ("edge-1", f"pod {tenant.namespace}/{pod}, {uid}")


@pytest.mark.parametrize("audience", ["https://kubernetes.default.svc", "tunnel2"])
def test_another_audience(tenant: Tenant, pod: str, audience: str) -> None:
    assert tenant.refusal(tenant.token(pod, audience=audience)) == "wrong-audience"


def test_a_node_that_is_named_by_its_address(tenant: Tenant) -> None:
    tenant.pod("tunnel-agent-numbered", "192.168.2.143")
    assert tenant.refusal(tenant.token("tunnel-agent-numbered")) == "bad-node-name"


def test_another_audience_that_pretends(tenant: Tenant, pod: str) -> None:
    """What the token says may be forged, so it is the apiserver that refuses it."""
    header, payload, signature = tenant.token(pod, audience="tunnel2").split(".")
    claims = _decoded(payload) | {"aud": [AUDIENCE]}
    assert tenant.refusal(f"{header}.{_encoded(claims)}.{signature}") == "token-refused"


def test_another_service_account(tenant: Tenant) -> None:
    tenant.pod("of-another", account="other")
    assert tenant.refusal(tenant.token("of-another", account="other")) == "other-service-account"


def test_another_namespace(tenant: Tenant, apiserver: ControlPlane, namespace: str) -> None:
    other = Tenant(apiserver, namespace)
    other.pod("tunnel-agent-x")
    assert tenant.refusal(other.token("tunnel-agent-x")) == "other-service-account"
    other.cluster.close()


def test_a_token_of_no_pod(tenant: Tenant) -> None:
    assert tenant.refusal(tenant.token(None)) == "no-pod"


def test_a_pod_that_is_gone_and_one_that_has_its_name(tenant: Tenant, pod: str) -> None:
    token = tenant.token(pod)
    tenant.delete("pod", pod)
    _until(lambda: tenant.refusal(token) in {"token-refused", "pod-gone"})
    tenant.pod(pod)
    assert tenant.refusal(token) in {"token-refused", "pod-replaced"}
    assert tenant.attest(tenant.token(pod)).node == "edge-1"


def test_a_pod_that_is_being_deleted(tenant: Tenant, pod: str) -> None:
    token = tenant.token(pod)
    tenant.plane.kubectl("delete", "pod", pod, "-n", tenant.namespace, "--wait=false")
    assert tenant.get("pod", pod)["metadata"]["deletionTimestamp"]
    assert tenant.refusal(token) == "pod-ending"


@pytest.mark.parametrize(
    "owner",
    [
        {"uid": "6c5f2f0e-0000-4000-8000-000000000000"},
        {"name": "another"},
        {"kind": "ReplicaSet"},
        {"apiVersion": "mine.example/v1"},
        {"controller": False},
    ],
    ids=lambda owner: next(iter(owner)),
)
def test_a_pod_of_another_owner(tenant: Tenant, owner: dict[str, Any]) -> None:
    name = f"not-ours-{next(_count)}"
    tenant.pod(name, **owner)
    assert tenant.refusal(tenant.token(name)) == "pod-not-ours"


def test_a_daemon_set_that_was_made_anew(apiserver: ControlPlane, namespace: str) -> None:
    tenant = Tenant(apiserver, namespace)
    tenant.pod("tunnel-agent-x")
    token = tenant.token("tunnel-agent-x")
    made = tenant.get("daemonset", AGENT)
    tenant.delete("daemonset", AGENT)
    assert tenant.refusal(token) == "no-daemon-set"
    del made["metadata"]["uid"], made["metadata"]["resourceVersion"], made["status"]
    tenant.plane.apply(made)
    assert tenant.refusal(token) == "pod-not-ours"
    tenant.cluster.close()


def test_a_pod_that_nobody_has_scheduled(tenant: Tenant) -> None:
    tenant.pod("waiting", node=None)
    assert tenant.refusal(tenant.token("waiting")) == "pod-not-scheduled"


def test_expired_and_unauthenticated(tenant: Tenant, pod: str) -> None:
    """Made with the real key, the first is good in all but its time; the others are somebody else's."""
    header, payload, signature = tenant.token(pod).split(".")
    claims, now = _decoded(payload), int(time.time())
    key = serialization.load_pem_private_key(tenant.plane.signing_key.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    # What we sign ourselves is taken, so that it is the time that is refused.
    assert tenant.attest(_signed(header, claims, key)).node == "edge-1"
    past = {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    assert tenant.refusal(_signed(header, claims | past, key)) == "token-expired"
    other = rsa.generate_private_key(65537, 2048)
    assert tenant.refusal(_signed(header, claims, other)) == "token-refused"
    assert tenant.refusal(f"{header}.{payload}.{signature[:-8]}AAAAAAAA") == "token-refused"
    nobody = {"alg": "none"}
    assert tenant.refusal(f"{_encoded(nobody)}.{payload}.") == "token-refused"


def test_a_token_that_names_another_node_than_its_pod_does(tenant: Tenant, pod: str) -> None:
    """No cluster makes such a one. With the real key it can be made; it is refused, whoever says so first."""
    header, payload, _ = tenant.token(pod).split(".")
    claims = _decoded(payload)
    key = serialization.load_pem_private_key(tenant.plane.signing_key.read_bytes(), password=None)
    assert isinstance(key, rsa.RSAPrivateKey)
    claims["kubernetes.io"]["node"] = {"name": "edge-2", "uid": "a-node"}
    assert tenant.refusal(_signed(header, claims, key)) in {"other-node", "token-refused"}
    claims["kubernetes.io"].pop("node")  # as Kubernetes before 1.30
    assert tenant.attest(_signed(header, claims, key)).node == "edge-1"


def test_rights_that_the_server_lacks_refuse_nobody(tenant: Tenant, pod: str) -> None:
    other = tenant.plane.as_service_account(tenant.namespace, "other")
    nothing = Cluster(partial(from_kubeconfig, other), timeout=2.0)

    async def ask() -> None:
        await PodAttestor(nothing, tenant.settings).attest(token)

    token = tenant.token(pod)
    with pytest.raises(AttestationUnavailableError, match="see its log"):
        trio.run(ask)
    nothing.close()


def test_both_ends_while_the_apiserver_is_away(own_apiserver: ControlPlane, tmp_path: Path) -> None:
    """One that has its certificate starts offline; one that has none waits, and has it when it can."""
    tenant = Tenant(own_apiserver, own_apiserver.namespace("edge-tunnel"))
    own_apiserver.apply(*map(a_node, ("edge-1", "edge-2")))
    for node in ("edge-1", "edge-2"):
        tenant.pod(f"tunnel-agent-{node}", node)
        (tmp_path / f"{node}.token").write_text(tenant.token(f"tunnel-agent-{node}"))
    (logs := tmp_path / "ends").mkdir()
    with Processes(logs) as processes:
        ends = Ends(tmp_path, processes)
        ends.start_server(own_apiserver)
        ends.start_agent("edge-1")
        ends.until(lambda: ends.connected("edge-1"))
        held = load_credentials(tmp_path / "edge-1")
        assert (held.identity.name, held.addresses) == ("edge-1", frozenset())
        # The token of one pod brings nobody another node's name.
        ends.start_agent("edge-3", token="edge-1.token")
        ends.until(lambda: "asks for a certificate of edge-3" in processes.tail("edge-3", 20))
        processes.end("edge-3")

        own_apiserver.stop_api()
        processes.end("edge-1")
        ends.until(lambda: not ends.connected("edge-1"))
        ends.start_agent("edge-1", token="gone", ca="gone")
        ends.until(lambda: ends.connected("edge-1"))
        ends.start_agent("edge-2")
        ends.until(lambda: "cannot ask its apiserver" in processes.tail("edge-2", 20))
        assert not (tmp_path / "edge-2" / "node.crt").exists()

        own_apiserver.start_api()
        ends.until(lambda: ends.connected("edge-2"))
        with own_apiserver.frozen(), pytest.raises(AttestationUnavailableError):
            tenant.attest((tmp_path / "edge-2.token").read_text())
        words = "".join(processes.tail(name, 200) for name in ("server", "edge-1", "edge-2"))
        for node in ("edge-1", "edge-2"):
            assert (tmp_path / f"{node}.token").read_text()[-40:] not in words
        processes.end_all()
    tenant.cluster.close()


def test_an_identity_ends_with_its_node_and_a_thief_stays_out(
    own_apiserver: ControlPlane, tmp_path: Path
) -> None:
    """Revoked and readmitted; its Node deleted, and one of its name made: what was stolen is refused."""
    tenant = Tenant(own_apiserver, own_apiserver.namespace("edge-tunnel"))
    own_apiserver.apply(a_node("edge-1"))
    tenant.pod("tunnel-agent-edge-1")
    (tmp_path / "edge-1.token").write_text(tenant.token("tunnel-agent-edge-1"))
    (logs := tmp_path / "ends").mkdir()

    def revoke(*words: str) -> None:
        command = [BIN / "tunnelctl", "revoke", "edge-1", *words, "--kubeconfig", own_apiserver.kubeconfig]
        subprocess.run(command, check=True, capture_output=True)

    def serial() -> str:
        return load_credentials(tmp_path / "edge-1").serial

    with Processes(logs) as processes:
        ends = Ends(tmp_path, processes)
        ends.start_server(own_apiserver)
        ends.start_agent("edge-1")
        ends.until(lambda: ends.connected("edge-1"))
        assert load_credentials(tmp_path / "edge-1").attested
        stolen = shutil.copytree(tmp_path / "edge-1", tmp_path / "thief")
        first = serial()

        revoke("--reason", "stolen")
        ends.until(lambda: not ends.connected("edge-1"))
        ends.until(lambda: "tunnelctl revoke --readmit edge-1" in processes.tail("edge-1", 50))
        revoke("--readmit")
        ends.until(lambda: ends.connected("edge-1"))
        assert serial() != first
        second = serial()

        own_apiserver.kubectl("delete", "node", "edge-1")
        ends.until(lambda: not ends.connected("edge-1"))
        assert "no Node edge-1 any more" in processes.tail("server", 50)
        own_apiserver.apply(a_node("edge-1"))
        ends.until(lambda: ends.connected("edge-1"))
        assert serial() not in {first, second}

        processes.end("edge-1")
        ends.until(lambda: not ends.connected("edge-1"))
        words = ["run", "--state-dir", stolen, "--health-port", "0"]
        processes.start("thief", [BIN / "tunnel-agent", *words])
        ends.until(lambda: "was revoked at" in processes.tail("thief", 50))
        assert not ends.connected("edge-1")
        processes.end_all()
    tenant.cluster.close()


def a_node(name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


class Ends:
    """A server of this cluster, and agents, as processes on loopback."""

    def __init__(self, directory: Path, processes: Processes) -> None:
        self._directory, self._processes = directory, processes
        self._admin = directory / "admin.sock"
        self._server = ""

    def start_server(self, plane: ControlPlane) -> None:
        here = {
            "tunnel-port": 0, "secure-port": 0, "insecure-port": 0, "meta-port": 0, "intercept": False,
            "state-dir": self._directory / "state", "admin-socket": self._admin,
            "server-addresses": ["127.0.0.1"], "edge-networks": ["192.168.0.0/16"],
        }  # fmt: skip
        table = {"enabled": True, "kubeconfig": str(plane.kubeconfig), "request-timeout": 2}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in table.items()]
        (config := self._directory / "server.toml").write_text(
            toml(here) + "\n[kubernetes]\n" + "".join(lines)
        )
        self._processes.start("server", [BIN / "tunnel-server", "--config", config])
        self.until(lambda: self._ask("status"))
        (tunnel,) = [each for each in self._ask("status")["listeners"] if each["name"] == "tunnel"]
        self._server = tunnel["address"].replace("0.0.0.0", "127.0.0.1")
        words = ("get", "configmap", "edge-tunnel-ca", "-n", "edge-tunnel", "-o", r"jsonpath={.data.ca\.crt}")
        self.until(lambda: "BEGIN" in plane.try_kubectl(*words).stdout)
        (self._directory / "ca.crt").write_text(plane.kubectl(*words))

    def start_agent(self, node: str, token: str = "", ca: str = "ca.crt") -> None:
        words = ["--service-account-token", self._directory / (token or f"{node}.token")]
        words += ["--ca-file", self._directory / ca, "--node-name", node, "--server", self._server]
        words += ["--state-dir", self._directory / node, "--health-port", "0", "--backoff-max", "1"]
        self._processes.start(node, [BIN / "tunnel-agent", "run", *words])

    def connected(self, node: str) -> bool:
        nodes = {each["name"]: each for each in self._ask("nodes").get("nodes", ())}
        return bool(nodes.get(node, {}).get("connected"))

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            logs = "\n".join(f"{each}:\n{self._processes.tail(each, 20)}" for each in self._processes.names())
            assert time.monotonic() < deadline, logs
            time.sleep(0.05)

    def _ask(self, what: str) -> dict[str, Any]:
        try:
            return ask(self._admin, "GET", f"/v1/{what}")
        except CommandError:
            return {}


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _encoded(claims: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")


def _decoded(payload: str) -> dict[str, Any]:
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return claims


def _signed(header: str, claims: object, key: rsa.RSAPrivateKey) -> str:
    signed = f"{header}.{_encoded(claims)}"
    signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
