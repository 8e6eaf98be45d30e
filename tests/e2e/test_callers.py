"""Clients that know nothing of a tunnel, at the edge's own address and port: everything they do works."""

import hashlib
import socket
import struct
import time
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.e2e import services, ssh, tls
from tests.e2e.network import accept, dial, dropping, listen, read_to_end
from tests.e2e.system import EDGE_1, EDGE_2, System, curl, curl_json

HTTP = f"http://{EDGE_1}:9081"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_http(system: System, method: str) -> None:
    body = b"" if method == "GET" else b"a body"
    with_body = ["--data-binary", body.decode()] if body else []
    answer = curl_json(system.topology.cloud, "-X", method, *with_body, f"{HTTP}/some/path?and=query")
    assert answer["method"] == method
    assert answer["path"] == "/some/path?and=query"
    assert answer["host"] == f"{EDGE_1}:9081"
    assert (answer["length"], answer["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


@pytest.mark.parametrize(("address", "name"), [(EDGE_1, "edge-1"), (EDGE_2, "edge-2")])
def test_each_edge_answers_at_its_own_address(system: System, address: str, name: str) -> None:
    assert curl_json(system.topology.cloud, f"http://{address}:9081/")["machine"] == name


def test_half_close(system: System) -> None:
    """The target reads to the end before it answers: the end came through, and closed only that way."""
    body = bytes(range(256)) * 256
    system.map_port("9082=10264")
    with (
        listen(system.topology.edge(1), ("0.0.0.0", 9082)) as target,
        dial(system.topology.cloud, (EDGE_1, 9082)) as caller,
        accept(target) as served,
    ):
        caller.sendall(body)
        caller.shutdown(socket.SHUT_WR)
        assert read_to_end(served) == body
        time.sleep(0.3)  # real time, in which a careless relay would close the other way too
        served.sendall(hashlib.sha256(body).digest())
        served.shutdown(socket.SHUT_WR)
        assert read_to_end(caller) == hashlib.sha256(body).digest()


def test_a_targets_end_comes_first(system: System) -> None:
    """The target closes its way at once, and still hears all that the caller says."""
    system.map_port("9083=10264")
    with (
        listen(system.topology.edge(1), ("0.0.0.0", 9083)) as target,
        dial(system.topology.cloud, (EDGE_1, 9083)) as caller,
        accept(target) as served,
    ):
        served.sendall(b"hello")
        served.shutdown(socket.SHUT_WR)
        assert read_to_end(caller) == b"hello"
        caller.sendall(b"later")
        caller.close()
        assert read_to_end(served) == b"later"


def test_what_a_caller_says_first_waits_for_no_answer_of_the_agents(system: System) -> None:
    """The target hears it while nothing that the agent says gets through: not even that it has connected."""
    system.map_port("9088=10264")
    with listen(system.topology.edge(1), ("0.0.0.0", 9088)) as target:
        with (
            dropping(system.topology.host("nat"), 'oifname "internet"'),
            dial(system.topology.cloud, (EDGE_1, 9088)) as caller,
        ):
            caller.sendall(b"hello")
            served = accept(target, timeout=10)
            assert served.recv(100) == b"hello"
            served.sendall(b"heard")
            caller.settimeout(0.3)
            with pytest.raises(TimeoutError):
                caller.recv(100)
            caller.settimeout(30)
            held = caller.dup()
        with served, held:
            assert held.recv(100) == b"heard"


def test_websocket(system: System) -> None:
    system.serve(system.topology.edge(1), "websocket", 9084)
    system.map_port("9084=10264")
    messages: list[str | bytes] = ["text", b"bytes" * 100_000, "", "ü" * 1000]
    with (
        dial(system.topology.cloud, (EDGE_1, 9084)) as sock,
        connect(f"ws://{EDGE_1}:9084/", sock=sock, proxy=None, max_size=None) as websocket,
    ):
        for message in messages:
            websocket.send(message)
            assert websocket.recv(timeout=30) == message


@pytest.mark.alone
def test_server_sent_events_are_not_held_back(system: System) -> None:
    with dial(system.topology.cloud, (EDGE_1, 9081)) as sock, sock.makefile("rb") as lines:
        sock.sendall(f"GET /events HTTP/1.1\r\nHost: {EDGE_1}\r\n\r\n".encode())
        late = []
        while len(late) < 20:
            if (line := lines.readline()).startswith(b"data: "):
                late.append(time.time() - float(line.split()[2]))
        assert sorted(late)[10] < 0.02, f"seconds from the edge to the caller: {late}"


def test_tls_is_end_to_end(system: System, tmp_path: Path) -> None:
    """The caller verifies the edge's own certificate: the listener for TLS ends nothing."""
    edge, cloud = system.topology.edge(1), system.topology.cloud
    pair = tls.certificate(tmp_path, "camera", f"IP:{EDGE_1}")
    tls.serve_pages(system, edge, 8443, pair)
    system.map_port("8443=10263")
    page = curl(cloud, "--cacert", pair[0], f"https://{EDGE_1}:8443/")
    assert page.returncode == 0, page.stderr
    assert "TLSv1.3" in page.stdout
    shown = tls.s_client(cloud, f"{EDGE_1}:8443", "-CAfile", pair[0])
    assert "subject=CN=camera" in shown
    assert "Verify return code: 0 (ok)" in shown
    stranger = curl(cloud, f"https://{EDGE_1}:8443/")
    assert stranger.returncode == 60, "curl verified a certificate that it does not know"


def test_ssh_at_the_edges_own_address(system: System, tmp_path: Path) -> None:
    edge, cloud = system.topology.edge(1), system.topology.cloud
    command = [*ssh.serve(system, edge, tmp_path), "cat; ip -4 -o addr show dev lan"]
    body = "x" * 1_000_000
    done = cloud.run(command, stdin=body)
    assert done.returncode == 0, done.stderr + system.processes.tail("sshd-edge-1")
    assert done.stdout.startswith(body)
    assert EDGE_1 in done.stdout


def test_a_callers_reset_reaches_the_target_and_a_targets_the_caller(system: System) -> None:
    system.map_port("9085=10264")
    with listen(system.topology.edge(1), ("0.0.0.0", 9085)) as target:
        for breaks in ("caller", "target"):
            with dial(system.topology.cloud, (EDGE_1, 9085)) as caller, accept(target) as served:
                breaker, other = (caller, served) if breaks == "caller" else (served, caller)
                breaker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                breaker.close()
                watch = system.stopwatch("server", "edge-1")
                with pytest.raises(ConnectionResetError):
                    read_to_end(other)
                assert watch.seconds() < 1, f"the {breaks}'s reset was late"


def test_a_hundred_at_once(system: System) -> None:
    """Each on its own connection, all open together."""
    body = b"".join(services.pattern(1))
    urls = [f"{HTTP}/pattern?mib=1"] * 100
    got = curl(
        system.topology.cloud,
        "--parallel",
        "--parallel-max",
        "100",
        "-w",
        "%{size_download}\n",
        *(word for url in urls for word in ("-o", "/dev/null", url)),
    )
    assert got.returncode == 0, got.stderr
    assert got.stdout.split() == [str(len(body))] * 100
