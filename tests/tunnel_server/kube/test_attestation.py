"""Which ServiceAccount tokens make an agent, and which do not. The real apiserver: tests/e2e/cluster."""

import base64
import copy
import json
import logging

import pytest
import trio
import trio.testing

from tunnel_server.attestor import AttestationRefusedError, AttestationUnavailableError
from tunnel_server.kube import attestation as attestation_module
from tunnel_server.kube.attestation import MAX_TOKEN, PodAttestor
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.settings import KubernetesSettings

AGENT = "system:serviceaccount:edge-tunnel:tunnel-agent"
EXTRA = "authentication.kubernetes.io/"
DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def jwt(**claims):
    """A token that says this; nobody has signed it."""
    payload = {"sub": AGENT, "aud": ["tunnel"], **claims}
    parts = [json.dumps({"alg": "RS256"}), json.dumps(payload), "signature"]
    return ".".join(base64.urlsafe_b64encode(each.encode()).decode().rstrip("=") for each in parts)


class Cluster:
    """What an apiserver has to say, as its JSON is."""

    def __init__(self):
        self.review = {
            "authenticated": True,
            "audiences": ["tunnel"],
            "user": {
                "username": AGENT,
                "uid": "a-service-account",
                "groups": ["system:serviceaccounts", "system:authenticated"],
                "extra": {
                    EXTRA + "credential-id": ["JTI=1"],
                    EXTRA + "node-name": ["edge-1"],
                    EXTRA + "node-uid": ["a-node"],
                    EXTRA + "pod-name": ["tunnel-agent-x7k2p"],
                    EXTRA + "pod-uid": ["a-pod"],
                },
            },
        }
        owner = {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "name": "tunnel-agent",
            "uid": "a-set",
            "controller": True,
            "blockOwnerDeletion": True,
        }
        self.pod = {
            "metadata": {
                "name": "tunnel-agent-x7k2p",
                "namespace": "edge-tunnel",
                "uid": "a-pod",
                "ownerReferences": [owner],
            },
            "spec": {"nodeName": "edge-1"},
            "status": {"phase": "Running"},
        }
        self.daemon_set = {
            "metadata": {"name": "tunnel-agent", "namespace": "edge-tunnel", "uid": "a-set"},
        }
        self.asked = []
        self.failures = {}

    @property
    def extra(self):
        return self.review["user"]["extra"]

    @property
    def owner(self):
        return self.pod["metadata"]["ownerReferences"][0]

    def _say(self, what, answer):
        self.asked.append(what)
        if what in self.failures:
            raise self.failures[what]
        return copy.deepcopy(answer)

    def create(self, resource, body, namespace=""):
        assert (resource.kind, namespace) == ("TokenReview", "")
        assert body["spec"]["audiences"] == ["tunnel"]
        return self._say("review", {**body, "status": self.review})

    def get(self, resource, name, namespace):
        assert namespace == "edge-tunnel"
        if resource.kind == "Pod":
            assert name == "tunnel-agent-x7k2p"
            return self._say("pod", self.pod)
        assert (resource.kind, name) == ("DaemonSet", "tunnel-agent")
        return self._say("daemon set", self.daemon_set)


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
async def attestor(cluster):
    return PodAttestor(cluster, KubernetesSettings())


async def test_the_node_is_the_one_that_the_pod_runs_on(cluster, attestor):
    attested = await attestor.attest(jwt())
    assert (attested.node, attested.evidence) == ("edge-1", "pod edge-tunnel/tunnel-agent-x7k2p, a-pod")
    assert cluster.asked == ["review", "pod", "daemon set"]
    # Kubernetes before 1.30 puts no node into the token.
    del cluster.extra[EXTRA + "node-name"], cluster.extra[EXTRA + "node-uid"]
    assert (await attestor.attest(jwt(aud="tunnel"))).node == "edge-1"


async def refused(attestor, token=None):
    with pytest.raises(AttestationRefusedError) as caught:
        await attestor.attest(jwt() if token is None else token)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return caught.value.code, str(caught.value)


@pytest.mark.parametrize(
    ("token", "code", "says"),
    [
        ("", "malformed", "no ServiceAccount token"),
        ("a.b.c", "malformed", "no ServiceAccount token"),
        ("a.b", "malformed", "no ServiceAccount token"),
        (f"a.{'ä' * 8}.c", "malformed", "no ServiceAccount token"),
        ("a.W10.c", "malformed", "no ServiceAccount token"),
        (jwt(pad="x" * MAX_TOKEN), "malformed", "no ServiceAccount token"),
        (jwt(aud=7), "malformed", "no ServiceAccount token"),
        (
            jwt(sub="system:serviceaccount:edge-tunnel:other"),
            "other-service-account",
            "edge-tunnel:other, and",
        ),
        (jwt(sub="x\n" * 500), "other-service-account", "x x x"),
        (jwt(aud=["https://kubernetes.default.svc"]), "wrong-audience", "not for tunnel: the agent's volume"),
        (jwt(aud=[]), "wrong-audience", "no audience"),
        (jwt(aud=["tunnels"]), "wrong-audience", "for tunnels, not for tunnel"),
    ],
)
async def test_what_cannot_be_an_agents_token_costs_the_apiserver_nothing(
    cluster, attestor, token, code, says
):
    found, text = await refused(attestor, token)
    assert (found, says in text) == (code, True)
    assert cluster.asked == []


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        ({"authenticated": False, "error": "invalid bearer token"}, "token-refused", "invalid bearer token"),
        ({"authenticated": None, "error": "token has expired"}, "token-expired", "has expired"),
        ({"authenticated": "true"}, "token-refused", "it is not authenticated"),
        (
            {"authenticated": True, "audiences": None},
            "wrong-audience",
            "no audience that the apiserver confirms",
        ),
        ({"audiences": []}, "wrong-audience", "no audience"),
        (
            {"audiences": ["https://kubernetes.default.svc"]},
            "wrong-audience",
            "https://kubernetes.default.svc",
        ),
        ({"audiences": "tunnels"}, "wrong-audience", "for"),
        ({"user": {"username": AGENT + "2"}}, "other-service-account", "tunnel-agent2, and"),
        ({"user": None}, "other-service-account", "None"),
        ({"user": {"username": AGENT}}, "no-pod", "projected volume"),
    ],
)
async def test_what_the_apiserver_says_of_the_token(cluster, attestor, status, code, says):
    cluster.review |= status
    found, text = await refused(attestor)
    assert (found, says in text) == (code, True), text
    assert cluster.asked == ["review"]


@pytest.mark.parametrize("claim", ["pod-name", "pod-uid"])
@pytest.mark.parametrize("values", [None, [], [""], ["one", "two"], "one"])
async def test_a_token_of_no_pod(cluster, attestor, claim, values):
    cluster.extra[EXTRA + claim] = values
    assert (await refused(attestor))[0] == "no-pod"
    assert cluster.asked == ["review"]


@pytest.mark.parametrize(
    ("part", "change", "code"),
    [
        ("pod", {"metadata": {"uid": "another"}}, "pod-replaced"),
        ("pod", {"metadata": {"uid": None}}, "pod-replaced"),
        ("pod", {"metadata": DELETED}, "pod-ending"),
        ("pod", {"status": {"phase": "Succeeded"}}, "pod-ending"),
        ("pod", {"status": {"phase": "Failed"}}, "pod-ending"),
        ("pod", {"spec": {"nodeName": None}}, "pod-not-scheduled"),
        ("pod", {"spec": {"nodeName": ""}}, "pod-not-scheduled"),
        ("pod", {"spec": {"nodeName": "edge-2"}}, "other-node"),
        ("pod", {"metadata": {"ownerReferences": None}}, "pod-not-ours"),
        ("pod", {"metadata": {"ownerReferences": []}}, "pod-not-ours"),
        ("owner", {"controller": False}, "pod-not-ours"),
        ("owner", {"controller": "true"}, "pod-not-ours"),
        ("owner", {"kind": "ReplicaSet"}, "pod-not-ours"),
        ("owner", {"apiVersion": "mine.example/v1"}, "pod-not-ours"),
        ("owner", {"name": "tunnel-agent-2"}, "pod-not-ours"),
        ("owner", {"uid": "one-before"}, "pod-not-ours"),
        ("owner", {"uid": None}, "pod-not-ours"),
        ("daemon_set", {"metadata": {"uid": "one-later"}}, "pod-not-ours"),
        ("daemon_set", {"metadata": {"uid": None}}, "pod-not-ours"),
    ],
)
async def test_what_is_no_pod_of_ours(cluster, attestor, part, change, code):
    found = getattr(cluster, part)
    for key, value in change.items():
        if isinstance(value, dict):
            found.setdefault(key, {}).update(value)
        else:
            found[key] = value
    assert (await refused(attestor))[0] == code


async def test_neither_uid_is_nobodys(cluster, attestor):
    cluster.owner["uid"] = cluster.daemon_set["metadata"]["uid"] = None
    assert (await refused(attestor))[0] == "pod-not-ours"


async def test_a_name_that_cannot_be_a_nodes(cluster, attestor):
    cluster.pod["spec"]["nodeName"] = "192.168.1.7"
    del cluster.extra[EXTRA + "node-name"]
    assert (await refused(attestor))[0] == "bad-node-name"


@pytest.mark.parametrize(("what", "code"), [("pod", "pod-gone"), ("daemon set", "no-daemon-set")])
async def test_what_is_gone(cluster, attestor, what, code):
    cluster.failures[what] = ApiFailure("gone", status=404, reason="NotFound")
    assert (await refused(attestor))[0] == code


@pytest.mark.parametrize("what", ["review", "pod", "daemon set"])
@pytest.mark.parametrize(("status", "reason"), [(0, ""), (403, "Forbidden"), (500, ""), (404, "")])
async def test_an_apiserver_that_cannot_say_refuses_nobody(cluster, attestor, caplog, what, status, reason):
    cluster.failures[what] = ApiFailure("apiserver https://a: no answer", status=status, reason=reason)
    for _ in range(2):
        with pytest.raises(AttestationUnavailableError, match="ask again later"):
            await attestor.attest(jwt())
    assert [each.getMessage() for each in caplog.records] == [
        "agents cannot be attested: apiserver https://a: no answer"
    ]
    cluster.failures.clear()
    assert (await attestor.attest(jwt())).node == "edge-1"


async def test_the_token_is_nowhere_in_the_log(cluster, attestor, caplog):
    caplog.set_level(logging.DEBUG)
    token = jwt()
    await attestor.attest(token)
    cluster.review["authenticated"] = False
    _, text = await refused(attestor, token)
    assert token not in caplog.text + text
    assert token.split(".")[2] not in caplog.text + text


async def test_a_silent_apiserver(cluster, attestor, monkeypatch):
    monkeypatch.setattr(attestation_module, "_PATIENCE", 0.05)
    release = trio.Event()
    monkeypatch.setattr(cluster, "create", lambda *_: trio.from_thread.run(release.wait))
    with pytest.raises(AttestationUnavailableError, match="does not answer"):
        await attestor.attest(jwt())
    release.set()


async def test_suspects_wait_for_each_other_only(cluster, attestor, monkeypatch):
    """However many, they hold one thread; and those who wait are bounded."""
    monkeypatch.setattr(attestation_module, "_WAITING", 2)
    release, busy, say = trio.Event(), [], cluster.create

    def create(*words):
        busy.append(words)
        trio.from_thread.run(release.wait)
        return say(*words)

    monkeypatch.setattr(cluster, "create", create)
    ended = []

    async def suspect():
        ended.append((await attestor.attest(jwt(), suspect=True)).node)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(suspect)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert len(busy) == 1
        with pytest.raises(AttestationUnavailableError, match="too many"):
            await attestor.attest(jwt(), suspect=True)
        monkeypatch.setattr(cluster, "create", say)
        assert (await attestor.attest(jwt())).node == "edge-1"
        assert ended == []
        release.set()
    assert ended == ["edge-1"] * 3
