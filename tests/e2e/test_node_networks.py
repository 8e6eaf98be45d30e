"""A network behind an edge, as its pods': reached by address through that edge, where all three let it.

The server's configuration names the network, the caller's rights name the edge and the port, and the agent's
allow-list has the last word.
"""

import json
import socket
from collections.abc import Callable

import pytest

from tests.e2e.egress import ESTABLISHED, ask, over_tls, over_unix_socket, refusal
from tests.e2e.network import accept, inside
from tests.e2e.system import BIN, CLOUD, System, curl, curl_json
from tests.e2e.test_ipv6 import plug_caller
from tunnelctl.demo.topology import Host

POD, POD6, OTHER_POD = "10.42.1.7", "fd00:42:1::7", "10.42.1.8"
GATEWAY, GATEWAY6 = "10.42.1.1", "fd00:42:1::1"


@pytest.fixture(scope="module")
def deployed(deploy_for_module: Callable[..., System]) -> System:
    return deploy_for_module()


@pytest.fixture(scope="module")
def pod(deployed: System) -> Host:
    return plug_caller(deployed.topology.edge(1), "pod", {POD: GATEWAY, POD6: GATEWAY6})


@pytest.fixture(scope="module")
def own(deployed: System, pod: Host) -> System:
    """edge-1 with a pod that its agent may dial, and no other of that network."""
    made, edge = deployed, deployed.topology.edge(1)
    made.start_server(
        **{
            "http-proxy-ports": "80, 81",
            "connect-socket": made.directory / "connect.sock",
            "audit-log": made.directory / "audit.log",
            "nodes.edge-1.networks": ["10.42.1.0/24", "fd00:42:1::/64"],
            "callers.kube.nodes": ["edge-1"],
            "callers.kube.ports": ["80"],
            "callers.kube.direct": True,
        }
    )
    made.serve(pod, "http", 80)
    made.add_edge(edge, allow=["loopback:*", "node:*", f"{POD}:*", f"[{POD6}]:*"])
    made.ctl("caller", "create", "kube", "--state-dir", made.state, "--out", made.directory / "kube")
    return made


def by_connect(own: System, host: str) -> str:
    """The machine that curl reaches as the caller kube, from elsewhere."""
    bundle = own.directory / "kube"
    done = curl_json(
        own.topology.host("other"), "--proxytunnel", "--proxy", f"https://{CLOUD}:10262", "--noproxy", "",
        "--proxy-cacert", bundle / "ca.crt", "--proxy-cert", bundle / "caller.crt",
        "--proxy-key", bundle / "caller.key", f"http://{host}/",
    )  # fmt: skip
    return str(done["machine"])


def test_by_connect_with_a_callers_certificate(own: System) -> None:
    assert by_connect(own, POD) == "pod"

    def audited() -> list[tuple[object, ...]]:
        lines = map(json.loads, (own.directory / "audit.log").read_text().splitlines())
        return [(each["node"], each["target"], each["end"]) for each in lines]

    own.until(lambda: ("edge-1", f"{POD}:80", "finished") in audited(), "server")


def test_ipv6_over_the_unix_socket(own: System, pod: Host) -> None:
    here = over_unix_socket(own.directory / "connect.sock")
    family = socket.AF_INET6
    with inside(pod, lambda: socket.create_server((POD6, 8080), family=family)) as listener:
        caller, answer = ask(here, f"[{POD6}]:8080")
        with caller, accept(listener) as target:
            assert answer == ESTABLISHED
            assert target.getpeername()[0] == GATEWAY6, "the edge dialled"
            caller.sendall(b"over the edge")
            assert target.recv(100) == b"over the edge"


@pytest.mark.parametrize("header", ["Host", "X-Tunnel-Proxy-Dest"])
def test_by_host(own: System, header: str) -> None:
    words = ("-H", f"{header}: {POD}:80", "http://127.0.0.1:10264/")
    assert curl_json(own.topology.cloud, *words)["machine"] == "pod"


def test_by_tunnelctl_connect(own: System) -> None:
    words = [BIN / "tunnelctl", "connect", "--connect-socket", own.directory / "connect.sock"]
    done = own.topology.cloud.run([*words, POD, "80"], stdin="GET / HTTP/1.0\r\n\r\n")
    assert '"machine": "pod"' in done.stdout, done.stderr
    done = own.topology.cloud.run([*words, POD6, "9"])
    assert f"tunnelctl: [{POD6}]:9: refused" in done.stderr, "the pod answered"


def test_what_is_refused(own: System) -> None:
    kube = over_tls(own.topology.host("other"), (CLOUD, 10262), own.directory / "kube")
    here = over_unix_socket(own.directory / "connect.sock")
    # The agent's word is the last, the caller's rights are those to the node, and `direct` goes past neither.
    assert refusal(here, f"{OTHER_POD}:80").startswith("403 not-allowed: 10.42.1.8:80 is not on the agent's")
    assert refusal(kube, f"{OTHER_POD}:80").startswith("403 not-allowed: 10.42.1.8:80 is not on the agent's")
    assert "this caller has no right to port 81 of edge-1" in refusal(kube, f"{POD}:81")
    assert refusal(here, "10.42.2.7:80").startswith("400 no-such-node")


def test_it_is_not_captured(own: System) -> None:
    cloud = own.topology.cloud
    assert curl(cloud, "--max-time", "3", f"http://{POD}/").returncode in {7, 28}
    assert POD not in cloud.run(["nft", "list", "table", "inet", "edge-tunnel"]).stdout


def test_a_reload_takes_it_away_and_brings_it_back(own: System) -> None:
    here = over_unix_socket(own.directory / "connect.sock")
    own.configure(**{"nodes.edge-1.networks": []})
    own.hang_up()
    own.until(lambda: "no-such-node" in curl_says(own), "server")
    own.configure(**{"nodes.edge-1.networks": ["10.42.0.0/16"], "nodes.edge-2.networks": [f"{OTHER_POD}/32"]})
    own.hang_up()
    own.until(lambda: '"machine": "pod"' in curl_says(own), "server")
    assert "is in a network of edge-2, and no node is called so" in refusal(here, f"{OTHER_POD}:80")
    assert "nodes.edge-2: (none) -> {" in own.log("server")


def curl_says(own: System) -> str:
    return own.topology.cloud.run(["curl", "-sS", "-H", f"Host: {POD}", "http://127.0.0.1:10264/"]).stdout
