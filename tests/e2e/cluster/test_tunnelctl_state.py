"""`tunnelctl` on the state of a tunnel in a cluster, through a kubeconfig, and servers that share it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.system import BIN, toml
from tunnelctl.admin_client import ask
from tunnelctl.demo.processes import Processes
from tunnelctl.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.cluster.control_plane import ControlPlane

EDGE_NETWORKS = '["192.168.0.0/16"]'
PORTS_CONFIG = ("-n", "kube-system", "configmap", "yurt-tunnel-server-cfg")


class Tunnel:
    """One namespace, its servers on this host, and `tunnelctl` of the cluster's administrator."""

    def __init__(
        self, apiserver: ControlPlane, namespace: str, directory: Path, processes: Processes
    ) -> None:
        self.apiserver = apiserver
        self.namespace = namespace
        self.directory = directory
        self.processes = processes
        self.port = 0

    def run(self, *words: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
        command = [BIN / "tunnelctl", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def ctl(self, *words: object, code: int = 0, namespace: str = "") -> str:
        named = ("--kubeconfig", self.apiserver.kubeconfig, "--namespace", namespace or self.namespace)
        done = self.run(*words, *named)
        assert done.returncode == code, (done.stdout, done.stderr)
        assert len(done.stderr.splitlines()) == (1 if code else 0), done.stderr
        return done.stderr if code else done.stdout

    def start_server(self, name: str, port: int) -> Path:
        """Another replica; the path of its admin socket."""
        config = self.configure(name, port, f"127.0.0.1:{port}")
        self.processes.start(name, [BIN / "tunnel-server", "--config", config])
        admin = self.directory / f"{name}.sock"
        self.until(lambda: self.answers(admin), name)
        return admin

    def configure(self, name: str, port: int, *addresses: str) -> Path:
        """Write the configuration of a server that agents dial at `addresses`."""
        admin = self.directory / f"{name}.sock"
        settings = {
            "server-addresses": list(addresses),
            "edge-networks": json.loads(EDGE_NETWORKS),
            "bind-address": ["127.0.0.1"],
            "tunnel-port": port,
            "secure-port": 0,
            "insecure-port": 0,
            "meta-port": 0,
            "intercept": False,
            "admin-socket": str(admin),
            "connect-socket": f"{name}-connect.sock",
            "kubernetes.enabled": True,
            "kubernetes.kubeconfig": str(self.apiserver.kubeconfig),
            "kubernetes.namespace": self.namespace,
            "kubernetes.service-networks": ["10.96.0.0/16"],
        }
        (config := self.directory / f"{name}.toml").write_text(toml(settings))
        return config

    def answers(self, admin: Path) -> bool:
        try:
            return bool(ask(admin, "GET", "/v1/status"))
        except CommandError:
            return False

    def nodes(self, admin: Path) -> dict[str, Any]:
        return {each["name"]: each for each in ask(admin, "GET", "/v1/nodes")["nodes"]}

    def bundle(self) -> str:
        words = ["get", "configmap", "edge-tunnel-ca", "-n", self.namespace, "--ignore-not-found"]
        return self.apiserver.kubectl(*words, "-o", r"jsonpath={.data.ca\.crt}")

    def join(self, line: str, name: str, *server: str) -> subprocess.CompletedProcess:
        program, verb, first, *rest = shlex.split(line)
        command = [BIN / program, verb, *(server or (first,)), *rest, "--state-dir", self.directory / name]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def until(self, condition: Callable[[], object], *logs: str) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            told = "\n".join(self.processes.tail(name, 20) for name in logs)
            assert time.monotonic() < deadline, told
            time.sleep(0.05)


@pytest.fixture
def tunnel(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> Iterator[Tunnel]:
    (logs := tmp_path / "logs").mkdir()
    with Processes(logs) as processes:
        yield Tunnel(apiserver, namespace, tmp_path, processes)
        processes.end_all()


@pytest.fixture
def passphrase(tmp_path: Path) -> tuple[str, Path]:
    (path := tmp_path / "passphrase").write_text("correct horse battery\n")
    return "--passphrase-file", path


def test_servers_and_tunnelctl_share_it(tunnel: Tunnel) -> None:
    """From the first start on: two servers, one authority; one token, one success; revoked at both."""
    both = [tunnel.start_server("server-1", 20462), tunnel.start_server("server-2", 20463)]
    tunnel.until(tunnel.bundle)
    line = tunnel.ctl("token", "create", "--node", "edge-1", "--ip", "192.168.2.143").strip()
    # One at each server at the same time, each with a key of its own.
    results: dict[str, subprocess.CompletedProcess] = {}

    def join(name: str, server: str) -> None:
        results[name] = tunnel.join(line, name, server)

    threads = [
        threading.Thread(target=join, args=(name, server))
        for name, server in (("a", "127.0.0.1:20462"), ("b", "127.0.0.1:20463"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (name for name, done in results.items() if done.returncode == 0)
    (loser,) = (done.stderr for done in results.values() if done.returncode)
    assert "was used at" in loser
    assert json.loads(tunnel.ctl("token", "list", "--json"))[0]["state"] == "used"
    agent = [BIN / "tunnel-agent", "run", "--state-dir", tunnel.directory / winner, "--health-port", "0"]
    tunnel.processes.start("agent", agent)
    connected = lambda: any(tunnel.nodes(each).get("edge-1", {}).get("connected") for each in both)  # noqa: E731
    tunnel.until(connected, "agent", "server-1", "server-2")
    assert "revoked node edge-1" in tunnel.ctl("revoke", "edge-1", "--reason", "stolen")
    tunnel.until(lambda: not connected(), "server-1")
    assert "stolen" in tunnel.ctl("revoke", "--list")
    assert "is let in again" in tunnel.ctl("revoke", "edge-1", "--undo")


def test_a_roll_reaches_the_servers_and_the_bundle_of_agents(tunnel: Tunnel) -> None:
    tunnel.start_server("server-1", 20464)
    tunnel.until(lambda: tunnel.bundle().count("BEGIN CERTIFICATE") == 1, "server-1")
    tunnel.apiserver.kubectl("delete", "configmap", "edge-tunnel-ca", "-n", tunnel.namespace)
    tunnel.until(tunnel.bundle, "server-1")
    first = tunnel.bundle()
    assert "both are trusted" in tunnel.ctl("ca", "roll", "start")
    tunnel.until(lambda: tunnel.bundle().count("BEGIN CERTIFICATE") == 2, "server-1")
    tunnel.ctl("ca", "roll", "switch")
    tunnel.ctl("ca", "roll", "finish")
    tunnel.until(lambda: tunnel.bundle().count("BEGIN CERTIFICATE") == 1, "server-1")
    assert tunnel.bundle() != first
    assert "no roll is on" in tunnel.ctl("ca", "roll", "status")
    line = tunnel.ctl("token", "create", "--node", "edge-2").strip()
    done = tunnel.join(line, "edge-2", "127.0.0.1:20464")
    assert done.returncode == 0, done.stderr


def test_callers_backup_and_restore(tunnel: Tunnel, passphrase: tuple[str, Path]) -> None:
    made = json.loads(tunnel.ctl("init", "--cert-ips", "203.0.113.10", "--json"))
    assert (made["made_authority"], made["names"]) == (True, ["203.0.113.10"])
    assert tunnel.namespace in made["state_dir"]
    assert "nothing was changed" in tunnel.ctl("init")
    tunnel.ctl("caller", "create", "ci", "--out", tunnel.directory / "ci")
    assert "valid" in tunnel.ctl("caller", "list")
    line = tunnel.ctl("token", "create", "--node", "edge-1", "--ip", "192.168.2.143")
    assert made["ca_hash"] in line
    assert "203.0.113.10:10262" in line
    file = tunnel.directory / "backup"
    tunnel.ctl("backup", file, *passphrase)
    tunnel.ctl("token", "revoke", json.loads(tunnel.ctl("token", "list", "--json"))[0]["id"])
    assert "not empty" in tunnel.ctl("restore", file, *passphrase, code=4)
    other = tunnel.apiserver.namespace(f"{tunnel.namespace}-other")
    assert "restored 6 files" in tunnel.ctl("restore", file, *passphrase, namespace=other)
    assert "live" in tunnel.ctl("token", "list", namespace=other)
    # And to a server that stands alone.
    state = tunnel.directory / "standalone"
    assert tunnel.run("restore", file, *passphrase, "--state-dir", state).returncode == 0
    assert "edge-1" in tunnel.run("token", "list", "--state-dir", state).stdout


def test_another_server_address_is_good_at_once(tunnel: Tunnel) -> None:
    """In the certificate before any agent hears of it, and so are the names of the Service."""
    tunnel.start_server("server-1", 20465)
    line = tunnel.ctl("token", "create", "--node", "edge-1").strip()
    assert "localhost" in tunnel.join(line, "a", "localhost:20465").stderr
    tunnel.configure("server-1", 20465, "localhost:20465", "127.0.0.1:20465")
    tunnel.until(lambda: tunnel.join(line, "a", "localhost:20465").returncode == 0, "server-1")
    stored = json.loads((tunnel.directory / "a" / "agent.json").read_text())["servers"]
    assert stored == ["localhost:20465", "127.0.0.1:20465"]
    words = ["openssl", "s_client", "-connect", "127.0.0.1:20465", "-showcerts"]
    shown = subprocess.run(words, input="", capture_output=True, text=True, check=False).stdout
    words = ["openssl", "x509", "-noout", "-ext", "subjectAltName"]
    names = subprocess.run(words, input=shown, capture_output=True, text=True, check=True).stdout
    assert f"DNS:tunnel-server.{tunnel.namespace}.svc" in names


def test_a_lost_authority_is_never_replaced(tunnel: Tunnel, passphrase: tuple[str, Path]) -> None:
    tunnel.start_server("server-1", 20466)
    file = tunnel.directory / "backup"
    line = tunnel.ctl("token", "create", "--node", "edge-1").strip()
    tunnel.ctl("backup", file, *passphrase)
    tunnel.until(tunnel.bundle)
    tunnel.processes.end("server-1")
    secrets = ("secret", "-n", tunnel.namespace)
    tunnel.apiserver.kubectl("delete", *secrets, "edge-tunnel-ca")
    config = tunnel.directory / "server-1.toml"

    def refused() -> str:
        command = [BIN / "tunnel-server", "--config", config]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode
        assert "edge-tunnel-ca" not in tunnel.apiserver.kubectl("get", *secrets, "-o", "name")
        return done.stderr

    assert "lost its authority, whose certificate is still in ConfigMap edge-tunnel-ca" in refused()
    tunnel.apiserver.kubectl("delete", "configmap", "edge-tunnel-ca", "-n", tunnel.namespace)
    assert "no authority any more, although there are server.crt and tokens.json: put it back" in refused()
    assert "restore --authority" in tunnel.ctl("init", "--cert-ips", "127.0.0.1", code=1)
    assert "put the authority of" in tunnel.ctl("restore", file, *passphrase, "--authority")
    tunnel.start_server("server-1", 20466)
    done = tunnel.join(line, "a", "127.0.0.1:20466")
    assert done.returncode == 0, done.stderr


def test_which_place_it_is_about(tunnel: Tunnel) -> None:
    """Named, that one; else what kubectl would use, which is said; but nothing is made there unasked."""
    config = str(tunnel.apiserver.kubeconfig)
    here = {**os.environ, "KUBECONFIG": config, "HOME": str(tunnel.directory)}
    both = tunnel.run("token", "list", "--state-dir", tunnel.directory, "--kubeconfig", config)
    assert (both.returncode, "--state-dir is on this machine" in both.stderr) == (2, True)
    guessed = tunnel.run("token", "list", environment=here)
    assert guessed.returncode == 1
    note, error = guessed.stderr.splitlines()
    assert note == (
        f"tunnelctl: no server is here, so this is about namespace edge-tunnel of {tunnel.apiserver.server}"
    )
    assert "has no ca.crt" in error
    made = tunnel.run(
        "init", "--cert-ips", "127.0.0.1", "--state-dir", tunnel.directory / "s", environment=here
    )
    assert made.returncode == 0, made.stderr
    assert not tunnel.apiserver.kubectl("get", "secrets", "-n", "edge-tunnel", "-o", "name")
    away = tunnel.run("token", "list", "--kubeconfig", tunnel.directory / "none")
    assert (away.returncode, "none does not exist" in away.stderr) == (2, True)
    nowhere = tunnel.run("token", "list", "--kubeconfig", config, "--context", "nowhere")
    assert nowhere.returncode == 2
    assert "context nowhere of" in nowhere.stderr


def test_an_apiserver_that_is_away_and_rights_that_are_missing(tunnel: Tunnel) -> None:
    (config := tunnel.directory / "away").write_text(
        tunnel.apiserver.kubeconfig.read_text().replace(tunnel.apiserver.server, "https://127.0.0.1:1")
    )
    done = tunnel.run("token", "list", "--kubeconfig", config)
    assert (done.returncode, "nothing listens there" in done.stderr) == (3, True)
    limited = tunnel.apiserver.as_service_account(tunnel.namespace, "default")
    done = tunnel.run("revoke", "edge-1", "--kubeconfig", limited, "--namespace", tunnel.namespace)
    assert done.returncode == 1
    assert "its account needs the verb" in done.stderr


@pytest.fixture
def ports_config(apiserver: ControlPlane) -> Iterator[Callable[[], dict[str, str]]]:
    """The ConfigMap's data; there is none of it before, and none is left."""

    def read() -> dict[str, str]:
        found = apiserver.kubectl(
            "get", *PORTS_CONFIG[:2], *PORTS_CONFIG[2:], "--ignore-not-found", "-o", "json"
        )
        return json.loads(found)["data"] if found else {}

    with contextlib.suppress(AssertionError):
        yield read
    apiserver.kubectl("delete", *PORTS_CONFIG, "--ignore-not-found")


def test_ports(tunnel: Tunnel, ports_config: Callable[[], dict[str, str]]) -> None:
    apiserver = tunnel.apiserver
    assert "port 9081 is captured, to 10264; ConfigMap kube-system/" in tunnel.ctl("map-port", "9081=10264")
    assert "nothing changed" in tunnel.ctl("map-port", "9081")
    tunnel.ctl("map-port", "9443=10263")
    assert ports_config() == {"dnat-ports-pair": "9081=10264, 9443=10263"}
    listed = json.loads(tunnel.ctl("map-port", "--list", "--json"))["mappings"]
    assert {each["port"]: each["listener_port"] for each in listed} == {
        9081: 10264, 9443: 10263, 10250: 10263, 10255: 10264,
    }  # fmt: skip
    tunnel.ctl("map-port", "9081", "--remove")
    tunnel.ctl("map-port", "9443=10264")
    assert ports_config() == {"dnat-ports-pair": "9443=10264"}
    for words, why in (
        (["10250=10264"], "built in"),
        (["9000=1"], "the listeners are 10264"),
        (["9081", "--remove"], "is not mapped"),
    ):
        assert why in tunnel.ctl("map-port", *words, code=4)
    # What somebody else keeps is theirs, until it is taken over.
    data = {"dnat-ports-pair": "9100, 9200", "http-proxy-ports": "8000-8010"}
    about = {"name": PORTS_CONFIG[3], "namespace": "kube-system"}
    manifest = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data})
    apiserver.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)
    assert "is kept by kubectl: change it there" in tunnel.ctl("map-port", "9300=10263", code=4)
    assert ports_config() == data
    tunnel.ctl("map-port", "9300=10263", "--force-conflicts")
    assert ports_config() == {**data, "dnat-ports-pair": "9100=10264, 9200=10264, 9300=10263"}
    assert "by a range or by another list" in tunnel.ctl("map-port", "8005", "--remove", code=4)
