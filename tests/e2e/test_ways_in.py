"""Every way in, and who may use it, on the real programs: rights, revocation and the audit log change."""

import json
from collections.abc import Callable

import pytest

from tests.e2e.network import accept, dial, listen
from tests.e2e.system import CLOUD, EDGE_1, System, curl, curl_json
from tunnelctl.demo.topology import Host


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(
        **{
            "http-proxy-ports": "9081, 9082",
            "audit-log": str(made.directory / "audit.log"),
            "callers.prom.nodes": ["edge-*"],
            "callers.prom.ports": ["9081"],
        }
    )
    for port in (9081, 9082):
        made.serve(made.topology.edge(1), "http", port)
    made.add_edge(made.topology.edge(1))
    for name in ("prom", "nobody"):
        made.ctl("caller", "create", name, "--state-dir", made.state, "--out", made.directory / name)
    return made


@pytest.fixture
def other(own: System) -> Host:
    """A host that reaches the server's public port, and nothing else of it."""
    return own.topology.host("other")


def by_connect(own: System, caller: str, url: str, host: Host) -> tuple[int, str]:
    """curl through the server's public port with a caller's certificate: its exit code, and all it said."""
    bundle = own.directory / caller
    done = curl(
        host, "-v", "--max-time", "15", "--proxytunnel", "--proxy", f"https://{CLOUD}:10262", "--noproxy", "",
        "--proxy-cacert", bundle / "ca.crt", "--proxy-cert", bundle / "caller.crt",
        "--proxy-key", bundle / "caller.key", url,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def audited(own: System, name: str = "audit.log") -> list[dict[str, object]]:
    return [json.loads(line) for line in (own.directory / name).read_text().splitlines()]


def test_a_caller_with_rights_reaches_by_name_and_address(own: System, other: Host) -> None:
    for target in ("edge-1", EDGE_1):
        code, said = by_connect(own, "prom", f"http://{target}:9081/", other)
        assert code == 0, said
        assert '"machine": "edge-1"' in said
    own.until(lambda: sum("caller/prom" in str(each["identity"]) for each in audited(own)) >= 2, "server")


def test_a_caller_without_rights_and_a_port_without_are_refused(own: System, other: Host) -> None:
    for caller, port in [("nobody", 9081), ("prom", 9082)]:
        code, said = by_connect(own, caller, f"http://edge-1:{port}/", other)
        assert code == 22, said
        assert "not-allowed" in said
    frontends = {each["name"]: each for each in own.status()["frontends"]}
    assert frontends["connect"]["failed"] >= 2

    def refused() -> list[dict[str, object]]:
        return [each for each in audited(own) if each["end"] == "not-allowed"]

    own.until(lambda: len(refused()) >= 2, "server")
    assert [(each["node"], each["target"], each["detail"]) for each in refused()[-2:]] == [
        ("edge-1", f"{EDGE_1}:9081", "this caller has no right to edge-1"),
        ("edge-1", f"{EDGE_1}:9082", "this caller has no right to port 9082 of edge-1"),
    ]


def test_rights_change_while_it_runs(own: System, other: Host) -> None:
    own.configure(**{"callers.prom.ports": ["9082"]})
    own.hang_up()
    own.until(lambda: by_connect(own, "prom", "http://edge-1:9082/", other)[0] == 0, "server")
    assert by_connect(own, "prom", "http://edge-1:9081/", other)[0] == 22
    own.configure(**{"callers.prom.ports": ["9081"]})
    own.hang_up()
    own.until(lambda: by_connect(own, "prom", "http://edge-1:9081/", other)[0] == 0, "server")


def test_directly_by_name(own: System, other: Host) -> None:
    words = ("-H", "Host: edge-1:9081", "--max-time", "20")
    assert curl_json(own.topology.cloud, *words, "http://127.0.0.1:10264/")["machine"] == "edge-1"
    assert curl(other, *words, f"http://{CLOUD}:10264/").returncode == 7


def test_the_audit_log_is_reopened(own: System) -> None:
    (own.directory / "audit.log").rename(own.directory / "audit.1")
    own.hang_up()
    own.until((own.directory / "audit.log").exists, "server")
    assert curl(own.topology.cloud, f"http://{EDGE_1}:9081/").returncode == 0
    own.until(lambda: audited(own), "server")
    (line,) = audited(own)
    assert (line["frontend"], line["node"], line["target"]) == ("insecure", "edge-1", f"{EDGE_1}:9081")
    assert not any(line["time"] == each["time"] for each in audited(own, "audit.1"))


def test_a_listing_of_every_way(own: System) -> None:
    names = {each["name"] for each in own.status()["listeners"]}
    assert names == {"secure", "insecure", "connect", "meta", "tunnel"}
    assert "CALLS BY" in own.ctl("status")


def test_a_revoked_caller_is_refused_at_once(own: System, other: Host) -> None:
    own.ctl("revoke", "--caller", "prom", "--state-dir", own.state)
    own.within(3, lambda: by_connect(own, "prom", "http://edge-1:9081/", other)[0] != 0, "server")


def test_a_revoked_node_is_cut_within_seconds(own: System) -> None:
    with (
        listen(own.topology.edge(1), (EDGE_1, 9090)) as target,
        dial(own.topology.cloud, ("127.0.0.1", 10264)) as caller,
    ):
        own.configure(http_proxy_ports="9081, 9090")
        own.hang_up()
        own.until(lambda: 9090 in {each["port"] for each in own.status()["mappings"]}, "server")
        caller.sendall(b"GET / HTTP/1.1\r\nHost: edge-1:9090\r\n\r\n")
        with accept(target) as served:
            assert served.recv(3) == b"GET"
            own.ctl("revoke", "edge-1", "--state-dir", own.state)
            own.within(3, lambda: own.connected() == set(), "server")
