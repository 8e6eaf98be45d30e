"""HTTP CONNECT as kube-apiserver speaks it, and socat and curl: to edges, past edges, and refused in time."""

import json
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.egress import ESTABLISHED, Dial, ask, over_tls, over_unix_socket, refusal
from tests.e2e.network import dial, dropping, listen
from tests.e2e.system import CLOUD, EDGE_1, System, curl, missing
from tests.e2e.test_ipv6 import CLOUD6, EDGE6, speak_ipv6
from tunnelctl.demo.topology import Host

OTHER = "203.0.113.20"
AWAY_WAIT, OPEN_TIMEOUT = 0.3, 0.8


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """edge-1 with two addresses and a kubelet, edge-2 that is away, callers with and without `direct`."""
    made = deploy_for_module()
    speak_ipv6(made.topology)
    made.ctl("init", "--state-dir", made.state, "--cert-ips", f"{CLOUD},{CLOUD6}")
    made.start_server(
        **{
            "bind-address": ["0.0.0.0", "::"],
            "connect-socket": made.directory / "connect.sock",
            "audit-log": made.directory / "audit.log",
            "limits.away-wait": AWAY_WAIT,
            "limits.open-timeout": OPEN_TIMEOUT,
            "callers.kube.nodes": ["*"],
            "callers.kube.ports": ["*"],
            "callers.past.direct": True,
            "callers.here.direct": True,
            "callers.here.direct-special": ["127.0.0.0/8"],
        }
    )
    edge = made.topology.edge(1)
    certificate, key = made.directory / "kubelet.crt", made.directory / "kubelet.key"
    names = f"subjectAltName=IP:{EDGE_1},IP:{EDGE6},DNS:edge-1"
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    subject = ["-subj", "/CN=kubelet", "-addext", names, "-days", "1"]
    subprocess.run([*request, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    for family in ("-4", "-6"):
        serve = ["openssl", "s_server", family, "-accept", "10250", "-cert", certificate, "-key", key, "-www"]
        made.start(f"kubelet{family}", edge, *serve)
    made.serve(made.topology.host("other"), "http", 8080)
    for number, addresses in ((1, (EDGE_1, EDGE6)), (2, ("192.168.2.144",))):
        joined = made.join(made.topology.edge(number), made.join_line(f"edge-{number}", *addresses))
        assert joined.returncode == 0, joined.stderr
    made.start_agent(edge)
    made.wait_ready("edge-1")
    for address in (EDGE_1, EDGE6):
        made.until(lambda at=address: _accepts(edge, (at, 10250)), "kubelet-4", "kubelet-6")
    for name in ("kube", "past", "here"):
        made.ctl("caller", "create", name, "--state-dir", made.state, "--out", made.directory / name)
    return made


def _accepts(host: Host, address: tuple[str, int]) -> bool:
    try:
        dial(host, address).close()
    except OSError:
        return False
    return True


@pytest.fixture(params=["uds", "tcp", "tcp6"])
def kube(request: pytest.FixtureRequest, own: System) -> Dial:
    """kube-apiserver beside the server, elsewhere, and elsewhere over IPv6."""
    if request.param == "uds":
        return over_unix_socket(own.directory / "connect.sock")
    where, address = ("other", CLOUD) if request.param == "tcp" else ("nat", CLOUD6)
    return over_tls(own.topology.host(where), (address, 10262), own.directory / "kube")


def tcp(own: System, caller: str) -> Dial:
    return over_tls(own.topology.host("other"), (CLOUD, 10262), own.directory / caller)


def proxy(own: System, caller: str) -> list[str | Path]:
    """curl's options for the way over TLS."""
    bundle = own.directory / caller
    return [
        "--noproxy", "", "--max-time", "15", "--proxytunnel", "--proxy", f"https://{CLOUD}:10262",
        "--proxy-cacert", bundle / "ca.crt", "--proxy-cert", bundle / "caller.crt",
        "--proxy-key", bundle / "caller.key",
    ]  # fmt: skip


@pytest.mark.parametrize("target", ["edge-1:10250", "EDGE-1:10250", f"{EDGE_1}:10250", f"[{EDGE6}]:10250"])
def test_the_answer_and_not_a_byte_before_the_client_speaks(kube: Dial, target: str) -> None:
    sock, answer = ask(kube, target)
    with sock:
        assert answer == ESTABLISHED
        sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            sock.recv(1)


@pytest.mark.parametrize("target", ["edge-1", EDGE_1, EDGE6])
def test_tls_inside_is_the_kubelets_own(own: System, target: str) -> None:
    """Over the Unix socket by Python's TLS, over TLS by curl's: the kubelet's own certificate is verified."""
    host, certificate = f"[{target}]" if ":" in target else target, own.directory / "kubelet.crt"
    sock, _ = ask(over_unix_socket(own.directory / "connect.sock"), f"{host}:10250")
    context = ssl.create_default_context(cafile=str(certificate))
    with context.wrap_socket(sock, server_hostname=target) as inner:
        inner.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert inner.recv(15) == b"HTTP/1.0 200 ok"
    done = curl(
        own.topology.host("other"), *proxy(own, "kube"), "--cacert", certificate, f"https://{host}:10250/"
    )
    assert done.returncode == 0, done.stderr
    assert "TLSv1.3" in done.stdout


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("edge-9:10250", "400 no-such-node: no node is called edge-9"),
        ("10.96.0.1:443", "400 no-such-node: no node has the address 10.96.0.1"),
        ("[fd00::1]:443", "400 no-such-node: no node has the address fd00::1"),
        (f"{OTHER}:8080", f"400 no-such-node: no node has the address {OTHER}"),
        ("edge-1:9999", "502 refused: "),
        ("edge-1", "400 'edge-1' names no port: CONNECT wants HOST:PORT"),
    ],
)
def test_the_cause_is_in_the_reason_phrase(kube: Dial, target: str, status: str) -> None:
    assert refusal(kube, target).startswith(status)


@contextmanager
def timed(own: System, limit: float) -> Iterator[None]:
    """kube-apiserver waits for an answer without a deadline of its own: ours has to hold."""
    watch = own.stopwatch("server", "edge-1")
    yield
    assert watch.seconds() < limit + 1


def test_an_edge_that_is_away_is_told_in_time(own: System, kube: Dial) -> None:
    with timed(own, AWAY_WAIT):
        status = refusal(kube, "edge-2:10250")
    assert status == f"503 away: edge-2 is not connected and did not come back within {AWAY_WAIT} s"


def test_a_target_that_swallows_everything_is_told_in_time(own: System, kube: Dial) -> None:
    with dropping(own.topology.edge(1), "tcp dport 9998", hook="output"), timed(own, OPEN_TIMEOUT):
        assert refusal(kube, "edge-1:9998").startswith("504 timed-out: ")


def test_a_link_that_swallows_everything_is_told_in_time(own: System, kube: Dial) -> None:
    nat = own.topology.host("nat")
    with dropping(nat, "iifname lan"), dropping(nat, "oifname lan"), timed(own, OPEN_TIMEOUT):
        assert refusal(kube, "edge-1:10250").startswith("504 timed-out: no answer from the agent within")


def test_a_target_of_nobodys_is_dialled_by_the_server_where_rights_say_so(own: System) -> None:
    done = curl(own.topology.host("other"), *proxy(own, "past"), f"http://{OTHER}:8080/")
    assert done.returncode == 0, done.stderr
    assert (answer := json.loads(done.stdout))["machine"] == "other"
    assert answer["caller"] == CLOUD
    with listen(own.topology.host("nat"), ("203.0.113.11", 4444)) as target:
        sock, answered = ask(tcp(own, "past"), "203.0.113.11:4444")
        with sock, target.accept()[0] as served:
            assert answered == ESTABLISHED
            sock.sendall(b"GET")
            assert served.recv(3) == b"GET"
    line = own.until(lambda: _audited(own, f"{OTHER}:8080"), "server")
    assert (line["node"], line["identity"]) == ("", "spiffe://edge-tunnel/caller/past")


def _audited(system: System, target: str) -> dict[str, object] | None:
    lines = map(json.loads, (system.directory / "audit.log").read_text().splitlines())
    return next((line for line in lines if (line["target"], line["end"]) == (target, "finished")), None)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("127.0.0.1:10265", "403 not-allowed: 127.0.0.1 is a loopback address, and not in direct-special"),
        ("localhost:10265", "403 not-allowed: "),
        ("[::1]:10265", "403 not-allowed: ::1 is a loopback address"),
        ("[::ffff:127.0.0.1]:10265", "400 '::ffff:127.0.0.1' is IPv4 in IPv6 form: write 127.0.0.1"),
        ("169.254.169.254:80", "403 not-allowed: 169.254.169.254 is "),
        ("0.0.0.0:10265", "403 not-allowed: 0.0.0.0 is "),
        (f"{CLOUD}:10262", f"403 not-allowed: {CLOUD} is this host's own"),
        (f"[{CLOUD6}]:10262", f"403 not-allowed: {CLOUD6} is this host's own"),
        (f"{EDGE_1}:10250", "403 not-allowed: this caller has no right to edge-1"),
        ("edge-1:10250", "403 not-allowed: this caller has no right to edge-1"),
        (f"{OTHER}:8099", f"502 refused: {OTHER}: Connection refused"),
        ("nowhere.invalid:80", "502 unresolvable: nowhere.invalid: "),
        ("192.168.2.9:80", "403 not-allowed: 192.168.2.9 is no edge's, but inside edge-networks"),
    ],
)
def test_what_direct_does_not_open(own: System, target: str, status: str) -> None:
    assert refusal(tcp(own, "past"), target).startswith(status)


def test_a_special_address_that_is_configured(own: System) -> None:
    host, options = own.topology.host("other"), proxy(own, "here")
    assert curl(host, *options, "http://127.0.0.1:10265/healthz").stdout.strip() == "ok"
    assert curl(host, *options, "http://localhost:10265/healthz").stdout.strip() == "ok"
    assert refusal(tcp(own, "here"), "[::1]:10265").startswith("403 ")


def test_the_unix_sockets_users_get_direct_by_a_table_of_theirs(own: System) -> None:
    unix = over_unix_socket(own.directory / "connect.sock")
    assert refusal(unix, f"{OTHER}:8080").startswith("400 no-such-node")
    own.configure(**{"callers.local.direct": True})
    own.hang_up()
    own.until(lambda: "direct" in own.log("server"), "server")

    def reaches() -> bool:
        sock, answer = ask(unix, f"{OTHER}:8080")
        sock.close()
        return answer == ESTABLISHED

    own.until(reaches, "server")
    sock, answer = ask(unix, "edge-1:10250")
    sock.close()
    assert answer == ESTABLISHED, "what the table does not say is as before"


def test_a_black_holed_target_of_nobodys_is_told_in_time(own: System) -> None:
    with (
        dropping(own.topology.cloud, f"ip daddr {OTHER} tcp dport 9998", hook="output"),
        timed(own, OPEN_TIMEOUT),
    ):
        assert refusal(tcp(own, "past"), f"{OTHER}:9998").startswith("504 timed-out: ")


@pytest.mark.skipif(missing("socat") != [], reason="socat is not installed")
def test_socat_by_connect_through_the_unix_socket_and_through_tls(own: System) -> None:
    """socat knows proxies on TCP ports only: one socat makes such a port of ours, another speaks to it."""
    cloud, bundle = own.topology.cloud, own.directory / "kube"
    own.serve(own.topology.edge(1), "http", 9081)
    tls = f"OPENSSL:{CLOUD}:10262,cert={bundle}/caller.crt,key={bundle}/caller.key,cafile={bundle}/ca.crt"
    for port, way in ((3128, f"UNIX-CONNECT:{own.directory}/connect.sock"), (3129, tls)):
        own.start(f"socat-{port}", cloud, "socat", f"TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr", way)
        own.until(lambda port=port: own.listens(cloud, port), f"socat-{port}")
        target = f"PROXY:127.0.0.1:edge-1:9081,proxyport={port}"
        request = "GET /by-socat HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        done = cloud.run(["socat", "-t5", "-", target], stdin=request)
        assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition("\n\n")
        assert json.loads(body or head.split("\r\n\r\n")[1])["path"] == "/by-socat"
        refused = cloud.run(["socat", "-t5", "-", target.replace(":9081", ":9997")], stdin="x")
        assert refused.returncode != 0  # 1, and 255 since socat 1.8
        assert refused.stdout == ""
        assert f"CONNECT edge-1:9997: refused: {EDGE_1}:9997: connection refused" in refused.stderr


def test_the_address_of_a_revoked_edge_is_no_neighbour_of_the_server(own: System) -> None:
    own.ctl("revoke", "edge-2", "--state-dir", own.state)
    gone = "400 no-such-node: no node has the address 192.168.2.144 any more, edge-2 had it: node edge-2 was "
    own.until(lambda: refusal(tcp(own, "past"), "192.168.2.144:80").startswith(gone), "server")
    own.ctl("nodes", "forget", "edge-2")
    forgotten = "403 not-allowed: 192.168.2.144 is no edge's, but inside edge-networks"
    assert refusal(tcp(own, "past"), "192.168.2.144:80").startswith(forgotten)
