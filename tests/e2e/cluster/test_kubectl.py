"""What people do with kubectl, to a node behind NAT: the server captures what kube-apiserver dials."""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import services
from tests.e2e.cluster import metrics
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.documented import NETWORKS, shown
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.cluster.terminal import terminal
from tests.e2e.system import curl

EDGE, POD = "edge-3", "app-edge-3"
SPDY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false", "KUBECTL_PORT_FORWARD_WEBSOCKETS": "false"}
protocols = pytest.mark.parametrize("env", [{}, SPDY], ids=["websocket", "spdy"])
MIB = 100


WATCH = 5
"""Seconds after which the server begins each of its watches anew."""


@pytest.fixture(scope="module", autouse=True)
def installed(cluster: Cluster, installation: Shipped, tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """kube-apiserver dials the node's own address, and metrics-server does in a pod: both are captured."""
    cluster.control_plane.configure_api()
    installation.install(shown(NETWORKS, "yaml", "callerNetworks"))
    metrics.install(cluster, tmp_path_factory.mktemp("metrics"))
    return installation


VERBS = {
    "logs": ["logs", "--tail=1", POD, "-c", "main"],
    "logs -f": ["logs", "-f", "--tail=1", POD, "-c", "main"],
    "exec -it": ["exec", "-it", POD, "-c", "main", "--", "hostname"],
    "attach": ["attach", "-it", POD, "-c", "echo"],
    "cp": ["cp", __file__, f"{POD}:/tmp/copied", "-c", "main"],
    "port-forward": ["port-forward", f"pod/{POD}", "8889:80"],
    "proxy": ["get", "--raw", f"/api/v1/nodes/{EDGE}/proxy/metrics"],
    "top": ["top", "node", EDGE, "--no-headers"],
}
LASTING = ("logs -f", "attach", "port-forward")
"""These go on until they are ended."""


@pytest.mark.timeout(180)
def test_without_the_tunnel_every_verb_fails(cluster: Cluster, installed: Shipped) -> None:
    """That each works with it is what the other tests show, and this one at its end."""
    plane = cluster.control_plane

    def end(verb: str) -> subprocess.CompletedProcess[str]:
        return plane.try_kubectl(*VERBS[verb], stdin="", timeout=40)

    with ThreadPoolExecutor(len(VERBS)) as threads:
        cluster.until(lambda: end("top").stdout.startswith(f"{EDGE} "), timeout=60)
        with installed.stopped():
            installed.edit(watch_timeout=WATCH)
            # metrics-server goes on with what it saw in its last ten seconds.
            cluster.until(lambda: end("top").returncode)
            for verb, done in zip(VERBS, threads.map(end, VERBS), strict=True):
                assert done.returncode != 0, f"{verb}: {done.stdout}"
                assert not done.stdout, verb
                if verb != "top":
                    assert "192.168.3.9:10250" in done.stderr, f"{verb}: {done.stderr}"
        # Not `top` again: metrics-server wants to have seen the node twice.
        short = [verb for verb in VERBS if verb not in {*LASTING, "top"}]
        for verb, done in zip(short, threads.map(end, short), strict=True):
            assert done.returncode == 0, f"{verb}: {done.stderr}"


@pytest.fixture(scope="module")
def follower(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What `logs -f` has written since the module began."""
    words = cluster.control_plane.kubectl_command(*VERBS["logs -f"])
    output = tmp_path_factory.mktemp("follower") / "output"
    with output.open("w") as file, subprocess.Popen(words, stdout=file) as process:
        yield output
        process.kill()


@pytest.mark.usefixtures("follower")
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


def test_top(cluster: Cluster) -> None:
    def top(*words: str) -> str:
        return cluster.control_plane.try_kubectl("top", *words, "--no-headers").stdout

    cluster.until(lambda: re.match(r"app-edge-3 +\d+m +\d+Mi *\n", top("pod", POD)), timeout=60)
    for node in (EDGE, "cloud"):
        cluster.until(lambda node=node: re.match(rf"{node} +\d+m +\d+% +\d+Mi +\d+% *\n", top("node", node)))


def test_logs_were_followed_while_the_server_watched_anew(cluster: Cluster, follower: Path) -> None:
    lines = cluster.until(lambda: (said := follower.read_text().splitlines())[3 * WATCH :] and said)
    first = int(lines[0].split()[1])
    assert lines == [f"tick {first + number}" for number in range(len(lines))]


def test_where_kubelets_certificates_are_not_verified(cluster: Cluster) -> None:
    """As kubeadm leaves it: without --kubelet-certificate-authority."""
    cluster.control_plane.configure_api(kubelet_certificate_authority="")
    assert re.fullmatch(r"tick \d+\n", cluster.kubectl(*VERBS["logs"]))
    assert cluster.kubectl("exec", POD, "-c", "main", "--", "hostname") == f"{POD}\n"
