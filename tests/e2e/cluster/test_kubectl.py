"""What people do with kubectl, to a node behind NAT: the server captures what kube-apiserver dials."""

import hashlib
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e import services
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.terminal import terminal
from tests.e2e.system import System, curl

EDGE, POD = "edge-3", "app-edge-3"
SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
protocols = pytest.mark.parametrize("env", [{}, SPDY], ids=["websocket", "spdy"])
MIB = 100


@pytest.fixture(scope="module", autouse=True)
def captured(cluster: Cluster, tunnel: System) -> System:
    """kube-apiserver dials the node's own address, which the server captures."""
    cluster.control_plane.configure_api()
    tunnel.wait_ready(EDGE)
    return tunnel


def test_logs(cluster: Cluster) -> None:
    assert re.fullmatch(r"tick \d+\ntick \d+\n", cluster.kubectl("logs", "--tail=2", POD, "-c", "main"))


def test_logs_are_followed_through_an_outage(cluster: Cluster) -> None:
    words = cluster.control_plane.kubectl_command("logs", "-f", "--tail=1", POD, "-c", "main")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        try:
            lines = [follower.stdout.readline() for _ in range(2)]
            cluster.cut(EDGE)
            time.sleep(4)
            cluster.heal(EDGE)
            lines += [follower.stdout.readline() for _ in range(8)]
        finally:
            cluster.heal(EDGE)
            follower.kill()
    first = int(lines[0].split()[1])
    assert lines == [f"tick {first + number}\n" for number in range(10)]


@protocols
def test_exec(cluster: Cluster, env: dict[str, str]) -> None:
    script = "echo to standard output; echo to the other >&2; hostname; exit 7"
    done = cluster.control_plane.try_kubectl("exec", POD, "-c", "main", "--", "sh", "-c", script, env=env)
    assert done.stdout == f"to standard output\n{POD}\n"
    assert done.stderr == "to the other\ncommand terminated with exit code 7\n"
    assert done.returncode == 7


@protocols
def test_exec_on_a_terminal(cluster: Cluster, env: dict[str, str]) -> None:
    words = cluster.control_plane.kubectl_command("exec", "-it", POD, "-c", "main", "--", "sh", env=env)
    with terminal(words, rows=33, columns=101) as shell:
        shell.until("# ")
        shell.type("stty size; tty\n")
        shell.until(r"33 101\r\n/dev/pts/\d+\r\n")
        shell.resize(44, 122)
        shell.until("# ")
        shell.type("sleep 1; stty size\n")
        shell.until(r"44 122\r\n")
        shell.type("sleep 1000\n")
        time.sleep(0.5)
        shell.type("\x03")
        shell.type("echo $((6 * 7)) after the interrupt\n")
        shell.until("\n42 after the interrupt")


@protocols
def test_exec_carries_100_mib_each_way(cluster: Cluster, env: dict[str, str]) -> None:
    command = cluster.control_plane.kubectl_command("exec", "-i", POD, "-c", "main", "--", env=env)
    with subprocess.Popen(
        [*command, "sh", "-c", "cat > /tmp/bulk && sha256sum /tmp/bulk"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as sender:  # fmt: skip
        assert sender.stdin is not None
        for block in services.pattern(MIB):
            sender.stdin.write(block)
        sent = sender.communicate(timeout=60)[0]
    assert sent.split()[0].decode() == services.pattern_digest(MIB)
    received = hashlib.sha256()
    with subprocess.Popen(
        [*command, "sh", "-c", "cat /tmp/bulk; rm /tmp/bulk"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    ) as receiver:
        assert receiver.stdout is not None
        while block := receiver.stdout.read(1 << 20):
            received.update(block)
    assert received.hexdigest() == services.pattern_digest(MIB)


@protocols
def test_attach(cluster: Cluster, env: dict[str, str]) -> None:
    words = cluster.control_plane.kubectl_command("attach", "-it", POD, "-c", "echo", env=env)
    with terminal(words) as attached:
        time.sleep(1)  # attach says nothing when it is there
        attached.type("is anybody there?\n")
        attached.until(r"is anybody there\?\r\nis anybody there\?\r\n")


@protocols
def test_cp_of_a_tree_both_ways(cluster: Cluster, tmp_path: Path, env: dict[str, str]) -> None:
    tree = tmp_path / "tree"
    (tree / "a folder" / "deep").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "a folder" / "deep" / "bytes").write_bytes(os.urandom(3_000_000))
    (tree / "a folder" / "line").write_text("äöü\n")
    plane = cluster.control_plane
    target = f"{POD}:/tmp/tree-{len(env)}"
    for source, destination in ((str(tree), target), (target, str(tmp_path / "back"))):
        done = plane.try_kubectl("cp", source, destination, "-c", "main", env=env)
        assert done.returncode == 0, done.stderr
    assert _contents(tmp_path / "back") == _contents(tree)


def _contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@protocols
def test_port_forward_with_many_callers(cluster: Cluster, env: dict[str, str]) -> None:
    words = cluster.control_plane.kubectl_command("port-forward", f"pod/{POD}", "8888:80", env=env)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forwarder:
        try:
            assert forwarder.stdout is not None
            assert forwarder.stdout.readline() == "Forwarding from 127.0.0.1:8888 -> 80\n"
            urls = "http://127.0.0.1:8888/?[1-100]"
            done = curl(
                cluster.topology.cloud, "--parallel", "--parallel-immediate", "--parallel-max", "30", urls
            )
        finally:
            forwarder.kill()
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"hello from {POD}\n" * 100


def test_the_kubelets_metrics(cluster: Cluster) -> None:
    metrics = cluster.kubectl("get", "--raw", f"/api/v1/nodes/{EDGE}/proxy/metrics")
    assert f'kubelet_node_name{{node="{EDGE}"}} 1\n' in metrics


def test_without_the_tunnel_the_same_commands_fail(cluster: Cluster, tunnel: System) -> None:
    plane = cluster.control_plane
    commands = [("logs", POD, "-c", "main"), ("exec", POD, "-c", "main", "--", "true")]
    tunnel.kill("server")
    try:
        for words in commands:
            done = plane.try_kubectl(*words)
            assert done.returncode != 0
            assert "192.168.3.9:10250" in done.stderr
    finally:
        tunnel.start_server()
    tunnel.wait_ready(EDGE)
    for words in commands:
        cluster.kubectl(*words)
