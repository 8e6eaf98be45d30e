"""Who may not call by CONNECT: what each is told, by curl and by tunnelctl, and what the audit log keeps."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import BIN, CLOUD, System, curl
from tunnelctl.demo.topology import Host

DOMAIN = "spiffe://edge-tunnel"


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """edge-1, and edge-2 that is away; callers, and bundles of who is none."""
    made = deploy_for_module()
    settings: dict[str, object] = {"audit-log": made.directory / "audit.log", "log-level": "debug"}
    for name, nodes, ports in (("ci", "edge-1", "9081"), ("gone", "*", "*"), ("old", "*", "*")):
        settings |= {f"callers.{name}.nodes": [nodes], f"callers.{name}.ports": [ports]}
    made.start_server(**settings)
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1))
    assert made.join(made.topology.edge(2), made.join_line("edge-2", "192.168.2.144")).returncode == 0
    for name, life in (("ci", "1d"), ("nobody", "1d"), ("gone", "1d"), ("old", "1s")):
        words = ("--ttl", life, "--state-dir", made.state, "--out", made.directory / name)
        made.ctl("caller", "create", name, *words)
    made.ctl("revoke", "--caller", "gone", "--state-dir", made.state)
    expired = time.monotonic() + 1.1
    agent = made.agent_state(made.topology.edge(1))
    _bundle(made, "agent", agent / "node.key", agent / "node.crt")
    _bundle(made, "server-too", made.state / "server.key", made.state / "server.crt")
    _bundle(made, "self-signed", *_self_signed(made.directory))
    other = made.directory / "another-authority"
    made.ctl("init", "--state-dir", other, "--cert-ips", CLOUD)
    made.ctl("caller", "create", "ci", "--state-dir", other, "--out", made.directory / "theirs")
    _bundle(
        made, "foreign", made.directory / "theirs" / "caller.key", made.directory / "theirs" / "caller.crt"
    )
    time.sleep(max(0.0, expired - time.monotonic()))  # the real programs have a real clock
    return made


def _self_signed(directory: Path) -> tuple[Path, Path]:
    """Whoever can write names can claim to be ci."""
    key, certificate = directory / "self.key", directory / "self.crt"
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
    names = ["-subj", "/CN=ci", "-addext", f"subjectAltName=URI:{DOMAIN}/caller/ci", "-days", "1"]
    subprocess.run([*request, *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return key, certificate


def _bundle(made: System, name: str, key: Path, certificate: Path) -> None:
    """A directory as a caller's; it knows the server's true authority."""
    (where := made.directory / name).mkdir()
    for source, target in ((key, "caller.key"), (certificate, "caller.crt")):
        shutil.copy(source, where / target)
    shutil.copy(made.directory / "ci" / "ca.crt", where / "ca.crt")


@pytest.fixture
def other(own: System) -> Host:
    return own.topology.host("other")


def by_curl(own: System, host: Host, name: str, target: str) -> tuple[int, str]:
    bundle = own.directory / name
    done = curl(
        host, "-v", "--max-time", "15", "--noproxy", "", "--proxytunnel", "--proxy", f"https://{CLOUD}:10262",
        "--proxy-cacert", bundle / "ca.crt", "--proxy-cert", bundle / "caller.crt",
        "--proxy-key", bundle / "caller.key", f"http://{target}/",
    )  # fmt: skip
    return done.returncode, done.stderr


def by_tunnelctl(own: System, host: Host, name: str, target: str) -> tuple[int, str]:
    """`connect` says one line, and nothing on standard output."""
    words = [*target.split(":"), "--server", CLOUD, "--identity", own.directory / name]
    done = host.run([BIN / "tunnelctl", "connect", *words], stdin="")
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.returncode, done.stderr.strip()


def audited(own: System) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (own.directory / "audit.log").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "target", "who", "why"),
    [
        ("nobody", "edge-1:9081", "/caller/nobody", "this caller has no right to edge-1"),
        ("ci", "edge-2:9081", "/caller/ci", "this caller has no right to edge-2"),
        ("ci", "edge-1:9082", "/caller/ci", "this caller has no right to port 9082 of edge-1"),
        ("gone", "edge-1:9081", "/caller/gone", "caller gone was revoked at "),
        ("old", "edge-1:9081", "/caller/old", "the certificate of old expired at "),
        ("agent", "edge-1:9081", "/node/edge-1", f"{DOMAIN}/node/edge-1 is no caller of {DOMAIN}"),
        ("server-too", "edge-1:9081", "/server/tunnel-server", f"tunnel-server is no caller of {DOMAIN}"),
    ],
)
def test_a_certificate_of_ours_that_does_not_allow_it(
    own: System, other: Host, name: str, target: str, who: str, why: str
) -> None:
    before = len(audited(own))
    code, said = by_curl(own, other, name, target)
    assert code == 22
    assert f"< HTTP/1.1 403 not-allowed: {why}" in said or f"is no caller of {DOMAIN}" in said
    code, said = by_tunnelctl(own, other, name, target)
    assert code == 4
    assert said.startswith(f"tunnelctl: {target}: not-allowed: ")
    assert why in said
    own.until(lambda: len(audited(own)) == before + 2, "server")
    for line in audited(own)[before:]:
        assert line["identity"] == DOMAIN + who
        assert (line["frontend"], line["wanted"], line["end"]) == ("connect", target, "not-allowed")
        assert why in line["detail"]
        assert (line["to_node"], line["to_caller"]) == (0, 0)


@pytest.mark.parametrize("name", ["self-signed", "foreign"])
def test_a_certificate_of_nobodys(own: System, other: Host, name: str) -> None:
    """TLS refuses it, and says so; it is nobody, so the audit log has no line, or anybody could fill it."""
    before = len(audited(own))
    code, said = by_curl(own, other, name, "edge-1:9081")
    assert (code, "alert unknown ca" in said) == (56, True)
    code, said = by_tunnelctl(own, other, name, "edge-1:9081")
    assert code == 4
    assert said == (
        f"tunnelctl: {CLOUD}:10262: the server does not know the authority of this certificate: "
        "get a new one with `tunnelctl caller create` on the server's host"
    )
    assert "its certificate is refused: " in own.log("server")
    assert len(audited(own)) == before
    metrics = curl(own.topology.cloud, "http://127.0.0.1:10265/metrics").stdout
    assert 'edge_tunnel_handshake_failures_total{reason="certificate"}' in metrics


def test_no_certificate_at_all(own: System, other: Host) -> None:
    before = len(audited(own))
    way = ["--proxy", f"https://{CLOUD}:10262", "--proxy-cacert", own.directory / "ci" / "ca.crt"]
    done = curl(other, "-v", "--noproxy", "", "--proxytunnel", *way, "http://edge-1:9081/")
    assert done.returncode == 22
    assert "< HTTP/1.1 403 not-allowed: CONNECT needs a caller's certificate: " in done.stderr
    assert "CONNECT by a stranger was refused" in own.log("server")
    assert len(audited(own)) == before


def test_port_forward_says_it_at_each_call(own: System, other: Host) -> None:
    """Rights and revocations change while it runs: it goes on."""
    argv = ["port-forward", "edge-1", "8888:9082", "--server", CLOUD, "--identity", own.directory / "ci"]
    command = other.command([BIN / "tunnelctl", *argv])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == "Forwarding from 127.0.0.1:8888 -> 9082\n"
            for _ in range(2):
                assert curl(other, "http://127.0.0.1:8888/").returncode == 56
                assert process.stderr.readline() == (
                    "8888 -> 9082: edge-1:9082: not-allowed: "
                    "this caller has no right to port 9082 of edge-1\n"
                )
        finally:
            process.terminate()
    assert process.returncode == 143


def test_who_may_still_may(own: System, other: Host) -> None:
    code, said = by_curl(own, other, "ci", "edge-1:9081")
    assert code == 0, said
