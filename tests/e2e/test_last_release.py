"""The last release's agent and server work with this tree's: one of the two is always upgraded first.

Half a minute on a busy machine: twenty programs start one after the other, and a certificate is renewed.
"""

import hashlib
import random
import signal
import socket
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tunnel_wire
from tests.e2e.network import accept, dial, listen, read_to_end, rebind
from tests.e2e.system import BIN, EDGE_1, System, curl_json

RELEASES = Path(__file__).parents[1] / "releases"
MUCH, PACE = 6 << 20, 0.005
"""Bytes, and seconds after each 64 KiB of them: half a second at least, in which something can happen."""


@pytest.fixture
def released(tmp_path: Path) -> tuple[str, dict[str, str]]:
    """The release's version, and the variables with which our programs are its."""
    (wheel,) = RELEASES.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "released")
    return wheel.name.split("-")[1], {"PYTHONPATH": str(tmp_path / "released")}


@pytest.mark.parametrize("old", ["server", "agent"])
def test_with_the_last_release(
    deploy: Callable[..., System], released: tuple[str, dict[str, str]], old: str
) -> None:
    """Joins, carries, resumes, renews, is drained and upgraded: no byte of a call is lost."""
    version, variables = released
    theirs, ours = (variables, {}) if old == "server" else ({}, variables)
    versions = {"server": tunnel_wire.__version__, "agent": tunnel_wire.__version__, old: version}
    assert versions["server"] != versions["agent"], "the tree's version is to be the next one"
    own = deploy()
    own.environment = theirs
    own.state = own.directory / "released-state"
    own.init()
    own.start_server(**{"state-dir": own.state, "limits.drain-timeout": 30})
    edge, nat = own.topology.edge(1), own.topology.host("nat")
    joined = own.join(edge, own.join_line(edge.name, edge.address), env=ours)
    assert joined.returncode == 0, joined.stderr
    own.start_agent(edge, env=ours, refresh_interval=1, backoff_max=1)
    own.wait_ready(edge.name)
    assert own.status()["version"] == versions["server"]
    assert own.nodes()[edge.name]["agent_version"] == versions["agent"]
    own.map_port("9082=10264")
    # Its caller speaks first, of which the last release wants to hear nothing before the answer.
    own.serve(edge, "http", 9081)
    own.map_port("9081=10264")
    answers_http(own)

    with (
        listen(edge, ("0.0.0.0", 9082)) as target,
        dial(own.topology.cloud, (EDGE_1, 9082), timeout=30) as caller,
        accept(target, timeout=30) as served,
    ):

        def relinked() -> None:
            rebind(nat, nat.address, elsewhere := "203.0.113.12")
            own.until(lambda: elsewhere in own.nodes()[edge.name]["remote_address"], "server", edge.name)

        both_ways(caller, served, meanwhile=relinked)

        for step in ("start", "switch"):
            words = ("ca", "roll", step, "--state-dir", own.state)
            own.until(lambda words=words: own.try_ctl(*words).returncode == 0, "server")
        own.until(lambda: "has renewed this agent's certificate" in own.log(edge.name), "server", edge.name)
        both_ways(caller, served)

        if old == "server":  # it lends its sockets and its table to this tree's
            words = ["--config", own.directory / "server.toml", "--take-over"]
            own.start("successor", own.topology.cloud, BIN / "tunnel-server", *words)
            own.until(lambda: "has taken over" in own.log("server"), "server", "successor")
            own.until(lambda: edge.name in own.connected(), "successor", edge.name)
        else:
            own.processes["server"].send_signal(signal.SIGTERM)
        own.until(lambda: "retires this link: " in own.log(edge.name), "server", edge.name)
        both_ways(caller, served)
        for one, other in ((caller, served), (served, caller)):
            one.shutdown(socket.SHUT_WR)
            assert read_to_end(other) == b""
    own.until(lambda: "server" in own.processes.ended(), "server")
    assert own.kill("server") == 0

    own.environment = {}
    if old == "agent":
        own.start_server()
    own.wait_ready(edge.name)
    assert own.status()["version"] == tunnel_wire.__version__
    answers_http(own)
    logs = [own.log(name) for name in ("server", "successor", edge.name) if own.processes.log(name).exists()]
    assert not any("Traceback" in log for log in logs)


def answers_http(own: System) -> None:
    answer = curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")
    assert answer["machine"] == own.topology.edge(1).name


def both_ways(
    one: socket.socket, other: socket.socket, *, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """What each sends is what the other receives, while something happens."""
    blobs = [random.randbytes(MUCH) for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(sock.sendall, blob) for sock, blob in zip((one, other), blobs, strict=True)]
        received = [pool.submit(_receive, sock) for sock in (other, one)]
        meanwhile()
        assert [each.result() for each in received] == [hashlib.sha256(blob).digest() for blob in blobs]
        for each in sent:
            each.result()


def _receive(sock: socket.socket) -> bytes:
    digest, left = hashlib.sha256(), MUCH
    while left > 0 and (part := sock.recv(1 << 16)):
        digest.update(part)
        left -= len(part)
        time.sleep(PACE)
    return digest.digest()
