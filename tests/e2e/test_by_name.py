"""Two factories that number their machines alike: each edge is reached by its name, by real programs."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e import services, tls
from tests.e2e.network import dial
from tests.e2e.system import CLOUD, RESET, System, curl, curl_json, missing
from tests.e2e.test_bulk import upload
from tunnelctl.demo.topology import Host, Site

SHARED = "192.168.2.143"
OWN = "192.168.2.150"
"""Which only edge-2 has."""
SITES = tuple(
    Site(f"nat-{number}", f"203.0.113.1{number}", edges={f"edge-{number}": SHARED}) for number in (1, 2)
)
PLAIN, SECURE = "http://127.0.0.1:10264", "127.0.0.1:10263"
OTHER = "203.0.113.20"

needs_socat = pytest.mark.skipif(bool(missing("socat")), reason="socat is not installed")


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """Both edges with a plain service on 9081 and a TLS one on 10250, of the same address."""
    made = deploy_for_module(sites=SITES)
    made.start_server(
        **{"http-proxy-ports": "9081, 9084, 9085", "audit-log": str(made.directory / "audit.log")}
    )
    for number, addresses in ((1, [SHARED]), (2, [SHARED, OWN])):
        edge = made.topology.edge(number)
        for address in addresses[1:]:
            assert edge.run(["ip", "address", "add", f"{address}/24", "dev", "lan"]).returncode == 0
        made.serve(edge, "http", 9081)
        tls.serve_pages(
            made, edge, 10250, tls.certificate(made.directory, edge.name, f"DNS:{edge.name}", f"IP:{SHARED}")
        )
        joined = made.join(edge, made.join_line(edge.name, *addresses))
        assert joined.returncode == 0, joined.stderr
        made.start_agent(edge)
        made.wait_ready(edge.name)
    return made


def refusals(system: System, frontend: str, outcome: str) -> float:
    """How many calls ended so, by the server's metrics."""
    metrics = curl(system.topology.cloud, "http://127.0.0.1:10265/metrics").stdout
    wanted = f'edge_tunnel_calls_total{{frontend="{frontend}",outcome="{outcome}"}} '
    return sum(float(line.removeprefix(wanted)) for line in metrics.splitlines() if line.startswith(wanted))


def s_client(host: Host, name: str, *options: str | Path, where: str = SECURE) -> str:
    """All that openssl s_client says of a connection that asks for `name`."""
    return tls.s_client(host, where, "-servername", name, *options)


# --- by server name -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["edge-1", "edge-2", "10250.edge-1", "EDGE-2."])
def test_openssl_by_server_name(own: System, name: str) -> None:
    edge = name.lower().strip(".").removeprefix("10250.")
    said = s_client(own.topology.cloud, name, "-CAfile", own.directory / f"{edge}.pem")
    assert f"subject=CN={edge}" in said
    assert "Verify return code: 0 (ok)" in said


def test_curl_by_server_name(own: System) -> None:
    for edge in ("edge-1", "edge-2"):
        page = curl(
            own.topology.cloud, "--connect-to", f"::{SECURE}", "--cacert", own.directory / f"{edge}.pem",
            f"https://{edge}:10250/healthz",
        )  # fmt: skip
        assert page.returncode == 0, page.stderr
        assert "TLSv1.3" in page.stdout


@pytest.mark.parametrize(
    ("name", "outcome", "why"),
    [
        ("edge-9", "no-such-node", "no node is called edge-9"),
        ("22.edge-1", "not-allowed", "port 22 is not mapped"),
        (SHARED, "address-shared", "claimed by several nodes, edge-1, edge-2: reach each by its name"),
    ],
)
def test_a_server_name_that_is_refused(own: System, name: str, outcome: str, why: str) -> None:
    before = refusals(own, "sni", outcome)
    assert "CONNECTED" in (said := s_client(own.topology.cloud, name))
    assert "subject=" not in said
    assert refusals(own, "sni", outcome) == before + 1
    assert why in own.status()["recent_failures"][-1]["detail"]


# --- by Host --------------------------------------------------------------------------------------


def test_two_edges_on_one_connection(own: System) -> None:
    each = [
        ["-w", "\n%{num_connects}\n", *words, f"{PLAIN}/"]
        for words in (
            ["-H", "Host: edge-1:9081"],
            ["-H", "Host: edge-2:9081"],
            ["-H", "X-Tunnel-Proxy-Dest: edge-1:9081", "-H", "Host: whatever.example"],
            ["-H", f"X-Tunnel-Proxy-Dest: {OWN}:9081"],
        )
    ]
    words = each[0] + [word for request in each[1:] for word in ("--next", "-sS", "--fail", *request)]
    done = curl(own.topology.cloud, *words)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert [json.loads(line)["machine"] for line in lines[::2]] == ["edge-1", "edge-2", "edge-1", "edge-2"]
    assert lines[1::2] == ["1", "0", "0", "0"], "one connection for all"
    assert json.loads(lines[4])["host"] == "whatever.example"


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
def test_a_chunked_upload(own: System, expect: str) -> None:
    mib = 48
    sent = upload(
        own, mib, "-H", "Host: edge-2:9081", "-H", "Transfer-Encoding: chunked", "-H", expect, f"{PLAIN}/up"
    )
    assert sent == (mib * services.MIB, services.pattern_digest(mib))


@pytest.fixture(scope="module")
def large(own: System) -> Path:
    path = own.directory / "large"
    with path.open("wb") as file:
        file.writelines(services.pattern(48))
    return path


def test_a_large_body_goes_when_the_edge_says_continue(own: System, large: Path) -> None:
    done = curl(
        own.topology.cloud, "-v", "-T", large, "-H", "Host: edge-1:9081", "-H", "Expect: 100-continue",
        "--expect100-timeout", "20", f"{PLAIN}/up",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "< HTTP/1.1 100 " in done.stderr
    answer = json.loads(done.stdout)
    assert answer["length"] == large.stat().st_size
    assert answer["sha256"] == services.pattern_digest(48)


@pytest.mark.parametrize(
    ("host", "status", "cause"),
    [
        ("edge-1:22", "403", "not-allowed"),
        ("edge-9:9081", "400", "no-such-node"),
        (f"{SHARED}:9081", "400", "address-shared"),
        ("edge-1:9084", "502", "refused"),
    ],
)
def test_a_large_body_stays_at_home_when_it_is_refused(
    own: System, large: Path, host: str, status: str, cause: str
) -> None:
    done = own.topology.cloud.run(
        ["curl", "-sS", "-T", large, "-H", f"Host: {host}", "-H", "Expect: 100-continue",
         "--expect100-timeout", "20", "-w", "\n%{http_code} %{size_upload}", f"{PLAIN}/up"]
    )  # fmt: skip
    answer, _, figures = done.stdout.partition("\n")
    assert json.loads(answer)["cause"] == cause
    assert figures.strip() == f"{status} 0"
    failure = own.status()["recent_failures"][-1]
    assert (failure["frontend"], failure["cause"]) == ("host", cause)
    assert failure["node"] == ("edge-1" if "edge-1" in host else "")


def test_a_websocket_by_host(own: System) -> None:
    messages: list[str | bytes] = ["text", b"bytes" * 100_000, "", "ü" * 1000]
    for number in (1, 2):
        own.serve(own.topology.edge(number), "websocket", 9084)
        with (
            dial(own.topology.cloud, ("127.0.0.1", 10264)) as sock,
            connect(f"ws://edge-{number}:9084/", sock=sock, proxy=None, max_size=None) as websocket,
        ):
            for message in messages:
                websocket.send(message)
                assert websocket.recv(timeout=30) == message


# --- the address that both claim ------------------------------------------------------------------


def test_a_shared_address_is_refused_and_told(own: System) -> None:
    before, size = refusals(own, "insecure", "address-shared"), len(own.log("server"))
    assert curl(own.topology.cloud, "--max-time", "20", f"http://{SHARED}:9081/").returncode in RESET
    why = f"address-shared: {SHARED} is claimed by several nodes, edge-1, edge-2: reach each by its name"
    assert why in own.log("server")[size:]
    assert refusals(own, "insecure", "address-shared") == before + 1
    assert curl_json(own.topology.cloud, f"http://{OWN}:9081/")["machine"] == "edge-2"
    for number in (1, 2):
        by_name = curl_json(own.topology.cloud, "-H", f"Host: edge-{number}:9081", f"{PLAIN}/")
        assert by_name["machine"] == f"edge-{number}"


# --- socat ----------------------------------------------------------------------------------------


def socat(host: Host, *words: str, stdin: bytes) -> bytes:
    """What comes back for `stdin`, which has an end."""
    argv = host.command(["socat", "-t", "10", "-", *words])
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_socat
def test_socat_at_the_edges_own_address(own: System) -> None:
    edge, body = own.topology.edge(2), b"".join(services.pattern(4))
    own.start("digests", edge, "socat", "TCP-LISTEN:9085,reuseaddr,fork", "EXEC:sha256sum")
    own.until(lambda: own.listens(edge, 9085), "digests")
    said = socat(own.topology.cloud, f"TCP:{OWN}:9085", stdin=body)
    assert said.split()[0].decode() == hashlib.sha256(body).hexdigest()


@needs_socat
def test_socat_by_server_name(own: System) -> None:
    for edge in ("edge-1", "edge-2"):
        bundle = own.directory / f"{edge}.pem"
        said = socat(
            own.topology.cloud, f"OPENSSL:{SECURE},snihost={edge},commonname={edge},cafile={bundle}",
            stdin=b"GET / HTTP/1.0\r\n\r\n",
        )  # fmt: skip
        assert said.startswith(b"HTTP/1.0 200 ok")


# --- who may --------------------------------------------------------------------------------------


def test_direct_calls_only_from_listed_networks_and_that_changes_while_it_runs(own: System) -> None:
    other, plain, secure = own.topology.host("other"), f"http://{CLOUD}:10264/", f"{CLOUD}:10263"
    by_host = ("--max-time", "20", "-H", "Host: edge-1:9081", plain)

    def reached() -> set[bool]:
        by_sni = "subject=CN=edge-2" in s_client(other, "edge-2", where=secure)
        return {by_sni, curl(other, *by_host).returncode == 0}

    def listening() -> bool:
        return plain.split("/")[2] in {each["address"] for each in own.status()["listeners"]}

    assert reached() == {False}
    assert not listening()
    own.configure(direct_address=[CLOUD])
    own.hang_up()
    own.until(listening, "server")
    assert reached() == {False}
    told = [failure for failure in own.status()["recent_failures"] if failure["caller"].startswith(OTHER)]
    assert {(failure["frontend"], failure["cause"]) for failure in told} == {
        ("insecure", "not-allowed"), ("secure", "not-allowed")
    }  # fmt: skip
    assert all(f"{OTHER} is in none of direct-networks" in failure["detail"] for failure in told)
    assert refusals(own, "insecure", "not-allowed") >= 1
    own.configure(direct_networks=["127.0.0.0/8", "::1/128", f"{OTHER}/32"])
    own.hang_up()
    own.until(lambda: reached() == {True}, "server")
    own.configure(direct_networks=["127.0.0.0/8", "::1/128"])
    own.hang_up()
    own.until(lambda: reached() == {False}, "server")
    assert curl(own.topology.cloud, "-H", "Host: edge-1:9081", f"{PLAIN}/").returncode == 0


def test_by_server_name_through_a_service_of_this_host(own: System) -> None:
    """As kube-proxy leads there: what is redirected on its way to no edge is a direct call."""
    cloud, service = own.topology.cloud, "10.96.0.5"
    rules = f"type nat hook output priority -100\nip daddr {service} tcp dport 10250 redirect to :10263\n"
    made = cloud.run(["nft", "-f", "-"], stdin=f"table ip service {{\nchain c {{\n{rules}}}\n}}\n")
    assert made.returncode == 0, made.stderr
    try:
        own.configure(direct_networks=["127.0.0.0/8", "::1/128"])
        own.hang_up()
        own.until(lambda: "CN=edge-2" not in s_client(cloud, "edge-2", where=f"{service}:10250"), "server")
        own.configure(direct_networks=["127.0.0.0/8", "::1/128", f"{CLOUD}/32"])
        own.hang_up()
        own.until(lambda: "CN=edge-2" in s_client(cloud, "edge-2", where=f"{service}:10250"), "server")
    finally:
        cloud.run(["nft", "delete table ip service"])
        own.configure(direct_networks=["127.0.0.0/8", "::1/128"])
        own.hang_up()


def test_a_refusal_is_audited_with_its_node(own: System) -> None:
    refused = own.topology.cloud.run(["curl", "-sS", "-H", "Host: edge-2:22", f"{PLAIN}/"])
    assert json.loads(refused.stdout)["cause"] == "not-allowed"

    def audited() -> list[dict[str, str]]:
        lines = [json.loads(line) for line in (own.directory / "audit.log").read_text().splitlines()]
        return [line for line in lines if line["wanted"] == "edge-2:22"]

    (line,) = own.until(audited, "server")
    assert (line["frontend"], line["node"], line["target"]) == ("host", "edge-2", f"{SHARED}:22")
    assert (line["end"], line["detail"][:21]) == ("not-allowed", "port 22 is not mapped")
