"""A real kube-apiserver goes away, comes back, falls silent, refuses: what is known stays in force."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.e2e.cluster.certificates import kubeconfig
from tests.e2e.cluster.control_plane import ControlPlane
from tests.e2e.cluster.followed import Followed, followed
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import NODES, PODS
from tunnelctl.demo.processes import Processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """One for these tests, each of which leaves it as it was."""
    directory = tmp_path_factory.mktemp("breakable")
    (logs := directory / "logs").mkdir()
    with Processes(logs) as processes:
        made = ControlPlane(directory, processes)
        try:
            made.start()
            yield made
        finally:
            made.close()


def note(made: Followed) -> str:
    return made.following.notes().get("kubernetes nodes", "")


async def test_away_and_back(breakable: ControlPlane) -> None:
    async with followed(breakable, watch_timeout=5.0) as made:
        made.add("edge-a", "192.168.2.1")
        made.add("edge-b", "192.168.2.2")
        await made.until(lambda: len(made.held()) == 2)
        breakable.stop_api()
        await made.until(lambda: "nothing listens there: is it running?" in note(made))
        assert "what was known stays in force: apiserver https://127.0.0.1:" in note(made)
        assert made.whose("192.168.2.1") == "edge-a"
        assert 'edge_tunnel_kubernetes_watch_up{resource="nodes"} 0.0' in made.counted()
        breakable.start_api()  # not in a thread: it ends with the one that started it
        # What happened behind its back, and whatever comes then.
        made.remove("edge-a")
        made.readdress("edge-b", "192.168.2.3")
        await made.until(lambda: made.held() == {"edge-b": {"192.168.2.3"}}, 40)
        # Each kind is tried again at a time of its own.
        await made.until(lambda: made.following.notes() == {}, 20)
        made.add("edge-c", "192.168.2.4")
        await made.until(lambda: made.whose("192.168.2.4") == "edge-c")
        assert 'edge_tunnel_kubernetes_watch_up{resource="nodes"} 1.0' in made.counted()


async def test_gone(breakable: ControlPlane) -> None:
    """A version that the apiserver remembers no more, as after a long absence: it lists anew."""
    async with followed(breakable, watch_timeout=1.0) as made:
        made.add("edge-a", "192.168.2.1")
        made.add("edge-b", "192.168.2.2")
        await made.until(lambda: len(made.held()) == 2)
        watcher = made.following.watches["nodes"]
        lists = watcher.lists
        breakable.stop_api()
        await made.until(lambda: bool(watcher.problem))
        watcher._version = "1"
        breakable.start_api()  # not in a thread: it ends with the one that started it
        made.remove("edge-a")
        await made.until(lambda: made.held() == {"edge-b": {"192.168.2.2"}}, 40)
        assert watcher.lists > lists
        assert watcher.problem == ""


async def test_silent(breakable: ControlPlane) -> None:
    async with followed(breakable, watch_timeout=1.0, request_timeout=1.0) as made:
        made.add("edge-a", "192.168.2.1")
        await made.until(lambda: made.whose("192.168.2.1") == "edge-a")
        with breakable.frozen():
            await made.until(lambda: "no answer in time" in note(made))
            assert made.whose("192.168.2.1") == "edge-a"
        await made.until(lambda: made.following.notes() == {}, 20)


async def test_stopping_waits_for_no_watch(apiserver: ControlPlane) -> None:
    async with followed(apiserver, watch_timeout=300.0) as made:
        await trio.sleep(0.5)  # they are in their reads
        watchers = tuple(made.following.watches)
        assert all(each._limiter.borrowed_tokens for each in watchers)
        began = time.monotonic()
        made.nursery.cancel_scope.cancel()
    assert time.monotonic() - began < 0.5
    # Nor do their threads go on.
    with trio.fail_after(1):
        while any(each._limiter.borrowed_tokens for each in watchers):
            await trio.sleep(0.01)


async def test_an_expired_token_is_read_again(apiserver: ControlPlane, tmp_path: Path) -> None:
    apiserver.kubectl("create", "serviceaccount", "watching", "-n", "default")
    words = ["--clusterrole=cluster-admin", "--serviceaccount=default:watching"]
    apiserver.kubectl("create", "clusterrolebinding", "watching", *words)
    token = tmp_path / "token"
    token.write_text(apiserver.token("default", "watching"))
    path = kubeconfig(tmp_path / "kubeconfig", apiserver.server, apiserver.authority.ca, token="unused")
    document = json.loads(path.read_text())
    document["users"][0]["user"] = {"tokenFile": str(token)}
    path.write_text(json.dumps(document))
    async with followed(apiserver, path, watch_timeout=1.0) as made:
        await trio.sleep(1.1)  # credentials are read again at most once a second
        good = token.read_text()
        token.write_text("expired")
        connection = made.following.watches["nodes"]._cluster.connection
        connection.client = connection._connect()
        await made.until(lambda: "has the token or the certificate expired" in note(made))
        assert "watch nodes: Unauthorized" in note(made) or "list nodes: Unauthorized" in note(made)
        token.write_text(good)
        await made.until(lambda: made.following.notes() == {}, 20)


def test_failures_name_the_remedy(apiserver: ControlPlane, tmp_path: Path) -> None:
    def ask(path: Path) -> Cluster:
        return Cluster(partial(from_kubeconfig, path), timeout=2)

    nobody = ask(apiserver.as_user("nobody"))
    with pytest.raises(ApiFailure) as failed:
        nobody.list_all(PODS, "kube-system")
    assert str(failed.value) == (
        f"apiserver {apiserver.server}: list pods in kube-system: pods is forbidden: "
        'User "nobody" cannot list resource "pods" in API group "" in the namespace "kube-system"; '
        "its account needs the verb list on pods in a Role in kube-system"
    )
    assert (failed.value.status, failed.value.reason, failed.value.lasting) == (403, "Forbidden", True)
    admin = ask(apiserver.kubeconfig)
    with pytest.raises(ApiFailure, match='get nodes none: nodes "none" not found'):
        admin.get(NODES, "none")
    other = tmp_path / "other.crt"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", tmp_path / "key", "-out", other, "-subj", "/CN=other"],
        check=True, capture_output=True,
    )  # fmt: skip
    strange = kubeconfig(tmp_path / "strange", apiserver.server, other, token="t")
    with pytest.raises(
        ApiFailure, match=r"its certificate is not trusted: .*check the CA that is configured"
    ):
        ask(strange).list_all(NODES)
    nowhere = kubeconfig(tmp_path / "nowhere", "https://127.0.0.1:1", apiserver.authority.ca, token="t")
    with pytest.raises(ApiFailure, match="nothing listens there: is it running"):
        ask(nowhere).list_all(NODES)
    with pytest.raises(ApiFailure, match=r"kubeconfig.* is not usable: .*[Cc]ontext"):
        Cluster(partial(from_kubeconfig, apiserver.kubeconfig, "no-such"))


class Process:
    """A real tunnel-server which follows a cluster, and captures nothing."""

    def __init__(self, control: ControlPlane, directory: Path) -> None:
        config = directory / "server.toml"
        config.write_text(
            f"""
            server-addresses = "127.0.0.1:10262"
            bind-address = "127.0.0.1"
            admin-socket = "{directory / "admin.sock"}"
            edge-networks = "192.168.0.0/16"
            intercept = false
            tunnel-port = 0
            secure-port = 0
            insecure-port = 0
            meta-port = 0
            [kubernetes]
            enabled = true
            kubeconfig = "{control.kubeconfig}"
            node-selector = "process"
            request-timeout = "1s"
            watch-timeout = "2s"
            """
        )
        self.directory = directory
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tunnel_server", "--config", config], stdout=log, stderr=log
            )

    def ctl(self, *words: str) -> dict[str, Any]:
        socket_ = self.directory / "admin.sock"
        done = subprocess.run(
            [Path(sys.executable).parent / "tunnelctl", *words, "--json", "--admin-socket", socket_],
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        return {} if done.returncode else json.loads(done.stdout)

    def ready(self) -> tuple[int, dict[str, Any]]:
        listeners = self.ctl("status").get("listeners", [])
        address = next(each["address"] for each in listeners if each["name"] == "meta")
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:  # never 503 here
            return answer.status, json.loads(answer.read())

    def addresses(self) -> list[list[str]]:
        return [each["addresses"] for each in self.ctl("nodes")["nodes"]]

    def until(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> float:
        """SIGTERM; the seconds that it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0, self.log.read_text()
        return time.monotonic() - began


def test_a_server_goes_on_and_stops_at_once_while_the_apiserver_is_silent(
    breakable: ControlPlane, tmp_path: Path
) -> None:
    breakable.namespace("edge-tunnel")
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-a", "labels": {"process": ""}}}
    status = {"addresses": [{"type": "InternalIP", "address": "192.168.2.1"}]}
    breakable.kubectl("create", "-f", "-", stdin=json.dumps({**node, "status": status}))
    server = Process(breakable, tmp_path)
    try:
        server.until(lambda: bool(server.ctl("status")))
        server.until(
            lambda: [each["addresses"] for each in server.ctl("nodes")["nodes"]] == [["192.168.2.1"]]
        )
        assert server.ready() == (200, {"ready": True, "checks": {"interception": "ok"}, "notes": {}})
        with breakable.frozen():
            server.until(lambda: "kubernetes nodes" in server.ready()[1]["notes"])
            status, document = server.ready()
            assert (status, document["ready"]) == (200, True)
            assert "no answer in time" in document["notes"]["kubernetes nodes"]
            assert server.addresses() == [["192.168.2.1"]]
            assert server.stop() < 2
    finally:
        server.process.kill()
        server.process.wait()
    assert "Traceback" not in server.log.read_text()
