"""Certificates, roots, rights and hosts change under the real programs, and no stream is dropped by it."""

import contextlib
import hashlib
import json
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.e2e import services
from tests.e2e.load import Load, to
from tests.e2e.network import dial, read_to_end
from tests.e2e.system import BIN, CLOUD, EDGE_1, EDGE_2, System, curl, curl_json, toml
from tunnelctl.demo.topology import Host

OTHER = "203.0.113.20"
MIB = 100
PACE = 0.1
"""Seconds between two reads: 2.5 MB/s at most, so that there is something left when all has happened."""


class Download:
    """A download from edge-1 at its own address: slow while the block runs, and whole at its end."""

    def __init__(self, own: System) -> None:
        self._sock = dial(own.topology.cloud, (EDGE_1, 9081), timeout=30)
        self._digest, self._got = hashlib.sha256(), 0
        self._broken: OSError | None = None
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._sock.sendall(f"GET /pattern?mib={MIB} HTTP/1.1\r\nHost: {EDGE_1}\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self._sock.recv(1)
            assert byte, f"{head!r}"
            head += byte
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self._thread.is_alive()
        self._hurry.set()
        if error is not None:  # that says more than what becomes of the download
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(60)
        self._sock.close()
        if error is None:
            assert self._broken is None, f"cut after {self._got} bytes: {self._broken!r}"
            assert running, "it was over before anything happened, or ended early"
            assert self._got == MIB * services.MIB
            assert self._digest.hexdigest() == services.pattern_digest(MIB)

    def _read(self) -> None:
        try:
            while self._got < MIB * services.MIB and (part := self._sock.recv(256 * 1024)):
                self._digest.update(part)
                self._got += len(part)
                self._hurry.wait(PACE)
        except OSError as broken:
            self._broken = broken


def serial(certificate: Path) -> str:
    command = ["openssl", "x509", "-noout", "-serial", "-in", certificate]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip().partition("=")[2]


def configure(own: System, **settings: object) -> None:
    """Have other settings in force."""
    size = len(own.log("server"))
    own.configure(**settings)
    own.hang_up()
    own.until(lambda: "configuration: " in own.log("server")[size:], "server")


def serving(own: System, **agent: object) -> None:
    """An edge that is linked, with its service."""
    own.serve(own.topology.edge(1), "http", 9081)
    own.map_port("9081=10264")
    own.add_edge(own.topology.edge(1), **agent)


def test_authority_and_servers_certificate_change_under_a_transfer(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server()
    serving(own, refresh_interval=1)
    edge = own.topology.edge(1)
    before = serial(own.agent_state(edge) / "node.crt")

    def roll(step: str) -> dict[str, object]:
        status: dict[str, object] = json.loads(
            own.ctl("ca", "roll", step, "--json", "--state-dir", own.state)
        )
        return status

    def shown() -> str:
        words = ["openssl", "s_client", "-connect", f"{CLOUD}:10262"]
        pem = edge.run(words, stdin="").stdout
        return edge.run(["openssl", "x509", "-noout", "-ext", "subjectAltName"], stdin=pem).stdout

    with Load(own.topology.cloud, to(EDGE_1, 9081), callers=2) as load, Download(own):
        own.ctl("init", "--cert-dns-names", "tunnel.example.org", "--state-dir", own.state)
        own.until(lambda: "DNS:tunnel.example.org" in shown(), "server")
        roll("start")
        # Which knows the new root, and unlike edge-1 renews nothing by itself.
        own.ctl("caller", "create", "prom", "--state-dir", own.state, "--out", own.directory / "prom")
        own.until(lambda: roll("status")["ready"], "server", "edge-1")
        assert roll("switch")["nodes"] == ["edge-1"]
        refused = own.try_ctl("ca", "roll", "finish", "--state-dir", own.state)
        assert (refused.returncode, "caller prom still show" in refused.stderr) == (4, True)
        own.ctl("revoke", "--caller", "prom", "--state-dir", own.state)
        own.until(lambda: roll("status")["ready"], "server", "edge-1")
        assert roll("finish")["phase"] == "none"
        one = (own.state / "ca.crt").read_text()
        own.until(lambda: (own.agent_state(edge) / "ca.crt").read_text() == one, "server", "edge-1")
    assert serial(own.agent_state(edge) / "node.crt") != before
    assert load.failures == []
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    assert "a live connection ends" not in own.log("server")


def test_renewed_in_time_under_a_transfer_and_too_late(deploy: Callable[..., System]) -> None:
    own = deploy()
    own.start_server(node_certificate_life="2s")
    late = own.topology.edge(2)
    assert own.join(late, own.join_line("edge-2", EDGE_2)).returncode == 0
    configure(own, node_certificate_life="24s")  # due after 16: a busy machine needs some of the rest
    serving(own)
    configure(own, node_certificate_life="90h")
    with Load(own.topology.cloud, to(EDGE_1, 9081), callers=2) as load, Download(own):
        own.until(lambda: "has renewed this agent's certificate: it was time" in own.log("edge-1"), "edge-1")
        own.until(lambda: own.log("server").count("node=edge-1") and "link=1" in own.log("server"), "server")
    assert curl_json(own.topology.cloud, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"
    assert own.connected() == {"edge-1"}
    assert load.failures == []

    agent = own.start_agent(late, backoff_max=1)
    own.until(lambda: "the certificate of edge-2 expired at" in own.log("server"), "server", "edge-2")
    own.until(lambda: "is not valid by the server's clock" in own.log("edge-2"), "edge-2")
    state = own.agent_state(late)
    (state / "kept").write_text("an operator's note")
    done = own.join(late, own.join_line("edge-2", EDGE_2))  # without --force
    assert done.returncode == 0, done.stderr
    own.until(lambda: "edge-2" in own.connected(), "server", "edge-2")
    assert agent.poll() is None
    assert (state / "kept").exists()


def test_revoked_nodes_are_cut_at_once_and_stay_out(
    deploy: Callable[..., System], figure: Callable[[str, float], None]
) -> None:
    own = deploy()
    own.start_server()
    own.map_port("9081=10264")
    by_name, by_serial = own.topology.edge(1), own.topology.edge(2)
    for edge in (by_name, by_serial):
        own.serve(edge, "http", 9081)
        own.add_edge(edge, duplicate_delay=1, backoff_max=1)  # it tries again every other second
    shown = serial(own.agent_state(by_serial) / "node.crt")
    for edge, words in ((by_name, [by_name.name]), (by_serial, ["--serial", shown])):
        with dial(own.topology.cloud, (edge.address, 9081), timeout=30) as caller:
            caller.sendall(b"GET /events HTTP/1.0\r\n\r\n")
            assert caller.recv(12) == b"HTTP/1.1 200"
            own.ctl("revoke", *words, "--state-dir", own.state)
            watch = own.stopwatch("server", edge.name)
            with pytest.raises(ConnectionResetError):
                read_to_end(caller)
        own.until(lambda edge=edge: edge.name not in own.connected(), "server")
        seconds = watch.seconds()
        figure(f"s from revocation to the end of {edge.name}'s link and calls", seconds)
        assert seconds < 2
    for edge in (by_name, by_serial):
        # Nothing of it is left there, and it does not come back.
        own.within(5, lambda edge=edge: established(edge, 9081) == 0, edge.name)
        own.until(lambda edge=edge: own.log(edge.name).count("join again, if that is wanted") > 1, edge.name)
    own.kill("server", signal.SIGTERM)
    size = len(own.log("server"))
    own.start_server()

    def refused() -> set[str]:
        lines = own.log("server")[size:].splitlines()
        return {name for name in ("edge-1", "edge-2") for line in lines if revoked(line, name)}

    own.until(lambda: refused() == {"edge-1", "edge-2"}, "server")
    assert own.connected() == set()


def revoked(line: str, node: str) -> bool:
    return "a link is refused" in line and "was revoked at" in line and f"node={node}" in line


def established(host: Host, port: int) -> int:
    """Connections to this port, both ends counted."""
    sockets = host.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout
    return len(re.findall(f":{port:04X} 01 |:{port:04X} [0-9A-F]+:[0-9A-F]{{4}} 01 ", sockets))


def test_callers_open_connections_end_with_their_certificates(deploy: Callable[..., System]) -> None:
    """Revoked by name or serial, or expired; and what was revoked is so over a restart."""
    own, why = deploy(), {"name": "was revoked at", "serial": "was revoked at", "time": "expired at"}
    rights = {"nodes": ["edge-1"], "ports": ["9081"]}
    own.start_server(**{f"callers.{caller}.{key}": value for caller in why for key, value in rights.items()})
    serving(own, backoff_max=1)
    host = own.topology.host("other")

    def proxy(caller: str) -> list[str]:
        bundle = own.directory / caller
        return [
            *("--proxytunnel", "--proxy", f"https://{CLOUD}:10262", "--noproxy", ""),
            *("--proxy-cacert", f"{bundle}/ca.crt", "--proxy-cert", f"{bundle}/caller.crt"),
            *("--proxy-key", f"{bundle}/caller.key"),
        ]

    callers = {}
    for caller in why:
        ttl = "6s" if caller == "time" else "1h"
        words = ["--ttl", ttl, "--state-dir", str(own.state), "--out", str(own.directory / caller)]
        own.ctl("caller", "create", caller, *words)
        url = "http://edge-1:9081/events"
        callers[caller] = own.start(caller, host, "curl", "-sSN", *proxy(caller), url)
    own.until(lambda: all("data: 3" in own.log(caller) for caller in why), "server")
    own.ctl("revoke", "--caller", "name", "--state-dir", own.state)
    shown = serial(own.directory / "serial" / "caller.crt")
    own.ctl("revoke", "--serial", shown, "--state-dir", own.state)
    for caller, events in callers.items():
        assert events.wait(30) in {18, 56}, own.log(caller)  # in the middle, and no clean end
    assert own.log("server").count("a live connection ends") == len(why)
    own.kill("server", signal.SIGTERM)
    own.start_server()
    own.until(lambda: "edge-1" in own.connected(), "server")
    for caller, told in why.items():
        refused = curl(host, "-v", *proxy(caller), "http://edge-1:9081/")
        assert refused.returncode != 0
        assert "403 not-allowed" in refused.stderr
        assert told in refused.stderr


def test_restored_on_another_host(deploy: Callable[..., System], tmp_path: Path) -> None:
    """The old host is gone, and with it its address: nobody visits the edges."""
    own = deploy()
    cloud, other = own.topology.cloud, own.topology.host("other")
    own.ctl("init", "--cert-ips", f"{CLOUD},{OTHER}", "--state-dir", own.state)
    own.start_server(server_addresses=[f"{CLOUD}:10262", f"{OTHER}:10262"])
    serving(own, connect_timeout=1, backoff_max=1)
    off = own.topology.edge(2)
    config = own.directory / "server.toml"
    line = own.ctl("token", "create", "--node", "edge-2", "--ip", EDGE_2, "--config", config)
    assert f"{OTHER}:10262" in line
    assert own.join(off, line.split()[1:]).returncode == 0
    (secret := tmp_path / "passphrase").write_text("correct horse battery\n")
    copy = tmp_path / "tunnel.backup"
    own.ctl("backup", copy, "--passphrase-file", secret, "--state-dir", own.state)
    own.kill("server")
    own.topology.cut("cloud")

    state, admin = tmp_path / "restored", tmp_path / "restored.sock"
    done = other.run([BIN / "tunnelctl", "restore", copy, "--passphrase-file", secret, "--state-dir", state])
    assert done.returncode == 0, done.stderr
    (settings := tmp_path / "restored.toml").write_text(toml({"state-dir": state, "admin-socket": admin}))
    own.start("restored", other, BIN / "tunnel-server", "--config", settings)
    own.start_agent(off, connect_timeout=1, backoff_max=1)
    own.until(lambda: linked(other, admin) == {"edge-1", "edge-2"}, "restored", "edge-1", "edge-2")
    assert curl_json(other, f"http://{EDGE_1}:9081/")["machine"] == "edge-1"  # the mapping came along
    assert curl(cloud, "--max-time", "1", f"http://{EDGE_1}:9081/").returncode != 0


def linked(host: Host, admin: Path) -> set[str]:
    done = host.run([BIN / "tunnelctl", "nodes", "--json", "--admin-socket", admin])
    nodes = json.loads(done.stdout)["nodes"] if done.returncode == 0 else []
    return {node["name"] for node in nodes if node["connected"] and node["captured"]}
