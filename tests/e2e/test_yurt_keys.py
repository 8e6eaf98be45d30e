"""yurt-tunnel's keys and flags, with yurt-tunnel's meaning, on the real programs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.network import dial, listen
from tests.e2e.system import BIN, CLOUD, EDGE_1, System, curl, curl_json


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(
        **{
            "dnat-ports-pair": "9081=10264, 9443=10264, 9x=10264, 10250=10264",
            "http-proxy-ports": " 9082 ,9090-9092,, 9081",
            "https-proxy-ports": "9443, 9444=10263",
            "localhost-proxy-ports": "9091, 10266",
        }
    )
    made.serve(made.topology.edge(1), "http", 9082)
    made.add_edge(made.topology.edge(1))
    return made


def ports(system: System) -> dict[int, int]:
    return {each["port"]: each["listener_port"] for each in system.status()["mappings"]}


def test_precedence_and_what_is_dropped_is_named(own: System) -> None:
    assert ports(own) == {
        9081: 10264, 9082: 10264, 9090: 10264, 9091: 10264, 9092: 10264, 9443: 10263,
        10250: 10263, 10255: 10264,
    }  # fmt: skip
    problems = own.status()["mapping_problems"]
    for text in (
        '"9x=10264"',
        '"10250=10264"',
        '"9444=10263" is a pair',
        '"9443=10264" names port 9443 again',
    ):
        assert sum(text in problem for problem in problems) == 1, problems
    assert len(problems) == 4
    log = own.log("server")
    assert all(problem.replace('"', "") in log.replace('"', "") for problem in problems)
    metrics = curl(own.topology.cloud, "http://127.0.0.1:10265/metrics").stdout
    assert "edge_tunnel_mapping_problems 4.0" in metrics


def test_a_port_of_a_range(own: System) -> None:
    with (
        listen(own.topology.edge(1), ("0.0.0.0", 9090)) as target,
        dial(own.topology.cloud, (EDGE_1, 9090)) as caller,
    ):
        served, (address, _) = target.accept()
        with served:
            served.sendall(b"here")
            assert caller.recv(4) == b"here"
        assert address == EDGE_1  # the agent dialled the address that was called


def test_a_localhost_port_is_dialled_on_the_edges_loopback(own: System) -> None:
    with (
        listen(own.topology.edge(1), ("127.0.0.1", 9091)) as target,
        dial(own.topology.cloud, (EDGE_1, 9091)),
    ):
        served, (address, _) = target.accept()
        served.close()
        assert address == "127.0.0.1"


def test_a_localhost_port_is_not_captured_by_itself(own: System) -> None:
    assert curl(own.topology.cloud, "--max-time", "20", f"http://{EDGE_1}:10266/").returncode == 7


def test_a_localhost_port_by_name_is_the_agents_own_page(own: System) -> None:
    """What yurt-tunnel shipped the key for: the agents' 10266, for whoever names the node."""
    for header in ("Host: edge-1:10266", f"X-Tunnel-Proxy-Dest: {EDGE_1}:10266"):
        page = curl(own.topology.cloud, "-H", header, "http://127.0.0.1:10264/healthz")
        assert page.returncode == 0, page.stderr
    asked = ("-H", "Host: edge-1:10267", "http://127.0.0.1:10264/")
    assert curl(own.topology.cloud, *asked).returncode == 22
    with listen(own.topology.edge(1), ("127.0.0.1", 10267)) as target:
        own.configure(**{"localhost-proxy-ports": "9091, 10266, 10267"})
        own.hang_up()
        own.until(lambda: "10266, 10267" in own.log("server"), "server")
        with dial(own.topology.cloud, ("127.0.0.1", 10264)) as caller:
            caller.sendall(b"GET / HTTP/1.1\r\nHost: edge-1:10267\r\n\r\n")
            served, (address, _) = target.accept()
            with served:
                assert served.recv(3) == b"GET"
            assert address == "127.0.0.1"


def test_retyping_a_port_from_http_to_https_takes_effect(own: System) -> None:
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9082/")["machine"] == "edge-1"
    own.configure(**{"http-proxy-ports": "9090-9092", "https-proxy-ports": "9443, 9082"})
    own.hang_up()
    own.until(lambda: ports(own)[9082] == 10263, "server")
    ruleset = own.topology.cloud.run(["nft", "list", "table", "inet", "edge-tunnel"]).stdout
    assert "9082 : 10263" in ruleset
    assert "9082 : 10264" not in ruleset
    # Both listeners only carry bytes: the call comes through by the other one.
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9082/")["machine"] == "edge-1"


def start(system: System, program: str, *words: str | Path) -> tuple[int, str]:
    done = system.topology.cloud.run([BIN / program, *words], timeout=20)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("program", "flag", "says"),
    [
        ("tunnel-server", "--kube-config=/etc/kubernetes/admin.conf", "the table [kubernetes]"),
        ("tunnel-server", "--enable-dns-controller", "`names-configmap` of [kubernetes]"),
        ("tunnel-server", "--egress-selector-enable=true", "HTTPConnect"),
        ("tunnel-server", "--proxy-strategy=default", "destHost"),
        ("tunnel-server", "--server-count=3", "set it to 1"),
        ("tunnel-server", "--insecure-bind-address=node", "--insecure-bind-address: expected an IP address"),
        ("tunnel-agent", "--meta-port=x", "--meta-port: expected an integer"),
    ],
)
def test_a_flag_that_cannot_be_passed_over_is_refused(
    own: System, program: str, flag: str, says: str
) -> None:
    code, said = start(own, program, flag)
    assert code == 2
    assert flag.partition("=")[0] in said
    assert says in said
    assert len(said.splitlines()) == 1


def test_servers_and_agents_command_lines_of_yurt_tunnel(deploy: Callable[..., System]) -> None:
    system = deploy()
    cloud, edge = system.topology.cloud, system.topology.edge(1)
    config = system.directory / "server.toml"
    config.write_text(f'admin-socket = "{system.admin}"\n')
    system.start(
        "server", cloud, BIN / "tunnel-server", "--config", config, f"--cert-dir={system.state}",
        f"--bind-address={CLOUD}", "--insecure-bind-address=127.0.0.1", "--proxy-strategy=destHost",
        "--server-count=1", "--enable-iptables", "--enable-dns-controller=false", "--iptables-sync-period=30",
        "--tunnel-agent-connect-port=10262", "--secure-port=10263", "--insecure-port=10264",
        "--meta-port=10275", f"--cert-ips={CLOUD}", "--v=2",
    )  # fmt: skip
    system.until(system.answers, "server")
    assert system.listens(cloud, 10275)
    warnings = [line for line in system.log("server").splitlines() if "is not used:" in line]
    assert ["--iptables-sync-period" in warnings[1], "--cert-ips" in warnings[0]] == [True, True]
    assert len(warnings) == 2
    joined = system.join(edge, system.join_line("edge-1", EDGE_1))
    assert joined.returncode == 0, joined.stderr
    code, said = start_agent(system, "--node-name=edge-7")
    assert code == 2, said
    assert "this machine's certificate is that of edge-1" in said
    system.start(
        "edge-1", edge, BIN / "tunnel-agent", f"--cert-dir={system.agent_state(edge)}", "--node-name=edge-1",
        f"--node-ip={EDGE_1}", f"--tunnelserver-addr={CLOUD}:10262", "--meta-port=10276",
        f"--agent-identifiers=ipv4={EDGE_1}&host=edge-1", "--apiserver-addr=203.0.113.30:6443", "--v=2",
    )  # fmt: skip
    system.wait_ready("edge-1")
    assert system.listens(edge, 10276)
    warnings = [line for line in system.log("edge-1").splitlines() if "WARNING" in line]
    assert len(warnings) == 1, warnings
    assert "--apiserver-addr is not used: no cluster is asked" in warnings[0]


def start_agent(system: System, *words: str) -> tuple[int, str]:
    edge = system.topology.edge(1)
    argv = [BIN / "tunnel-agent", "run", "--state-dir", system.agent_state(edge), *words]
    done = edge.run(argv, timeout=20)
    return done.returncode, done.stderr
