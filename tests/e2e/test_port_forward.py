"""`tunnelctl port-forward` and `connect` with the real server: from its own host, and from anywhere."""

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.network import accept, dial, listen, read_to_end
from tests.e2e.services import MIB, pattern_digest
from tests.e2e.system import BIN, CLOUD, System, curl, curl_json
from tunnel_wire.sockets import close_with_reset
from tunnelctl.demo.topology import Host

TUNNELCTL = BIN / "tunnelctl"


class Way:
    """Where tunnelctl runs, and with which options."""

    def __init__(self, system: System, host: Host, options: list[str | Path]) -> None:
        self.system = system
        self.host = host
        self.options = options

    @contextlib.contextmanager
    def forwarding(self, *words: str) -> Iterator[subprocess.Popen[str]]:
        """port-forward while the block runs; its lines can be read, and are read up to its listeners'."""
        argv = [TUNNELCTL, "port-forward", "edge-1", *words, *self.options]
        with subprocess.Popen(
            self.host.command(argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            try:
                for _ in filter(lambda word: word.endswith((":9081", ":9400", ":9401")), words):
                    line = process.stdout.readline()
                    assert line.startswith("Forwarding from "), line + process.stdout.read()
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                rest = process.stdout.read()
                assert process.wait(30) == 130, rest
                assert "Traceback" not in rest

    def connect(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        argv = self.host.command([TUNNELCTL, "connect", *words, *self.options])
        return subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def calls(deploy_for_module: Callable[..., System]) -> System:
    """A server with one edge, and a caller `ci` that may reach it from anywhere."""
    made = deploy_for_module()
    rights = {"callers.ci.nodes": ["edge-*"], "callers.ci.ports": ["9081", "22", "9400-9499"]}
    patience = {"limits.away-wait": 1}
    made.start_server(connect_socket=made.directory / "connect.sock", **rights, **patience)
    for port in (9081, 9400):
        made.serve(made.topology.edge(1), "http", port)
    made.add_edge(made.topology.edge(1))
    made.ctl("caller", "create", "ci", "--out", made.directory / "ci", "--state-dir", made.state)
    return made


@pytest.fixture(params=["socket", "certificate"])
def way(request: pytest.FixtureRequest, calls: System) -> Way:
    """From the server's host, and from another one that has nothing but a certificate."""
    if request.param == "socket":
        return Way(calls, calls.topology.cloud, ["--connect-socket", calls.directory / "connect.sock"])
    options = ["--server", f"{CLOUD}:10262", "--identity", calls.directory / "ci"]
    return Way(calls, calls.topology.host("other"), options)


def test_several_ports_at_once(way: Way) -> None:
    with way.forwarding("8888:9081", "9999:9400"):
        for port in (8888, 9999):
            assert curl_json(way.host, f"http://127.0.0.1:{port}/")["machine"] == "edge-1"


def test_many_connections_in_parallel_and_much_in_each_direction(way: Way) -> None:
    with way.forwarding("8888:9081"), ThreadPoolExecutor(20) as pool:
        urls = [f"http://127.0.0.1:8888/{number}" for number in range(100)]
        answers = list(pool.map(lambda url: curl_json(way.host, url), urls))
        assert [answer["path"] for answer in answers] == [f"/{number}" for number in range(100)]
        got = way.system.directory / "got"
        done = curl(way.host, "-o", got, "http://127.0.0.1:8888/pattern?mib=64")
        assert done.returncode == 0, done.stderr
        assert hashlib.sha256(got.read_bytes()).hexdigest() == pattern_digest(64)
        sent = curl_json(way.host, "-T", got, "http://127.0.0.1:8888/upload")
        assert (sent["length"], sent["sha256"]) == (64 * MIB, pattern_digest(64))


def test_half_close_and_resets_are_kept(way: Way) -> None:
    edge = way.system.topology.edge(1)
    with listen(edge, ("0.0.0.0", 9401)) as service, way.forwarding("8889:9401"):
        with dial(way.host, ("127.0.0.1", 8889)) as caller:
            caller.sendall(b"request")
            caller.shutdown(socket.SHUT_WR)
            with accept(service) as target:
                assert read_to_end(target) == b"request"
                target.sendall(b"answer")
            assert read_to_end(caller) == b"answer"
        # From the target, with half a file on its way.
        with dial(way.host, ("127.0.0.1", 8889)) as caller:
            target = accept(service)
            target.sendall(b"half a file")
            assert caller.recv(100) == b"half a file"
            close_with_reset(target)
            with pytest.raises(ConnectionResetError):
                caller.recv(100)


def test_a_callers_reset_is_no_end_to_the_target(way: Way) -> None:
    with listen(way.system.topology.edge(1), ("0.0.0.0", 9401)) as service, way.forwarding("8889:9401"):
        caller = dial(way.host, ("127.0.0.1", 8889))
        with accept(service) as target:
            caller.sendall(b"half an upload")
            assert target.recv(100) == b"half an upload"
            close_with_reset(caller)
            with pytest.raises(ConnectionResetError):
                target.recv(100)


def test_a_program_that_is_killed_leaves_no_clean_end(way: Way) -> None:
    edge = way.system.topology.edge(1)
    argv = way.host.command([TUNNELCTL, "port-forward", "edge-1", "8890:9402", *way.options])
    with (
        listen(edge, ("0.0.0.0", 9402)) as service,
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Forwarding")
        with dial(way.host, ("127.0.0.1", 8890)) as caller, accept(service) as target:
            caller.sendall(b"half")
            assert target.recv(100) == b"half"
            target.sendall(b"half")
            assert caller.recv(100) == b"half"
            process.kill()
            for end in (caller, target):
                with pytest.raises(ConnectionResetError):
                    end.recv(100)


def test_new_connections_work_again_when_the_agent_is_back(way: Way) -> None:
    system, edge = way.system, way.system.topology.edge(1)
    with way.forwarding("8888:9081") as process:
        assert curl_json(way.host, "http://127.0.0.1:8888/")["machine"] == "edge-1"
        system.kill("edge-1")
        system.until(lambda: not system.nodes()["edge-1"]["connected"], "server")
        # A call waits for the edge to come back, then fails.
        assert curl(way.host, "http://127.0.0.1:8888/").returncode == 56
        system.start_agent(edge)
        system.wait_ready("edge-1")
        assert curl_json(way.host, "http://127.0.0.1:8888/")["machine"] == "edge-1"
        assert process.poll() is None
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(4)]
    assert any("8888 -> 9081: edge-1:9081: " in line and "away" in line for line in told), told


def test_connect_carries_the_payload_and_nothing_else(way: Way) -> None:
    """100 MiB each way, standard input's end included."""
    request = b"GET /pattern?mib=100 HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\n\r\n"
    done = way.connect("edge-1", "9081", stdin=request)
    assert (done.returncode, done.stderr) == (0, b"")
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert hashlib.sha256(body).hexdigest() == pattern_digest(100)
    head = b"PUT / HTTP/1.1\r\nHost: edge-1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    done = way.connect("edge-1", "9081", stdin=head + body)
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout.partition(b"\r\n\r\n")[2])
    assert (answer["length"], answer["sha256"]) == (100 * MIB, pattern_digest(100))


def test_where_it_listens_is_an_option(way: Way) -> None:
    with way.forwarding("8888:9081", "--address", "::1,127.0.0.1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Forwarding from 127.0.0.1:8888 -> 9081\n"
        for address in ("[::1]", "127.0.0.1"):
            assert curl_json(way.host, f"http://{address}:8888/")["machine"] == "edge-1"
        assert curl(way.host, f"http://{way.host.address}:8888/").returncode == 7
    with way.forwarding("8888:9081", "--address", way.host.address):
        assert (
            curl_json(way.system.topology.host("nat"), f"http://{way.host.address}:8888/")["method"] == "GET"
        )


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["edge-1", "9403"], 1, "refused"),
        (["edge-7", "22"], 4, "no node is called edge-7"),
    ],
)
def test_a_call_that_fails_says_why_in_one_line(way: Way, words: list[str], code: int, said: str) -> None:
    done = way.connect(*words)
    assert (done.returncode, done.stdout) == (code, b"")
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_caller_has_the_rights_that_are_configured_and_no_more(calls: System) -> None:
    options = ["--server", f"{CLOUD}:10262", "--identity", calls.directory / "ci"]
    done = Way(calls, calls.topology.host("other"), options).connect("edge-1", "10250")
    assert (done.returncode, done.stdout) == (4, b"")
    assert b"not-allowed" in done.stderr or b"10250" in done.stderr
    calls.ctl("caller", "create", "nobody", "--out", calls.directory / "nobody", "--state-dir", calls.state)
    options[3] = calls.directory / "nobody"
    assert Way(calls, calls.topology.host("other"), options).connect("edge-1", "9081").returncode == 4


def test_ssh_with_connect_as_its_proxy_command(way: Way, tmp_path: Path) -> None:
    edge = way.system.topology.edge(1)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    options = [f"-oHostKey={tmp_path / 'host'}", f"-oAuthorizedKeysFile={tmp_path / 'authorized'}"]
    options += ["-oStrictModes=no", "-oPidFile=none", "-oUsePAM=no", "-oPermitRootLogin=yes", "-p", "22"]
    options += [f"-oSetEnv=HOME={tmp_path}"]  # no start-up files of whoever runs the tests
    name = f"sshd-{way.host.name}"
    way.system.start(name, edge, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", *options)
    way.system.until(lambda: way.system.listens(edge, 22), name)
    command = " ".join(map(str, [TUNNELCTL, "connect", "%h", "%p", *way.options]))
    words = ["-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oBatchMode=yes", "-F/dev/null"]
    ssh = ["ssh", *words, "-i", tmp_path / "user", f"-oProxyCommand={command}", "root@edge-1"]
    done = way.host.run([*ssh, "wc -c; exit 7"], stdin="x" * 100_000)
    way.system.kill(name, signal.SIGTERM)
    assert (done.returncode, done.stdout.strip()) == (7, "100000"), done.stderr


def test_json_of_the_status_names_the_calls_caller(calls: System) -> None:
    options = ["--server", f"{CLOUD}:10262", "--identity", calls.directory / "ci"]
    Way(calls, calls.topology.host("other"), options).connect("edge-1", "9404")
    failures = json.loads(calls.ctl("status", "--json"))["recent_failures"]
    assert failures[-1]["target"].endswith(":9404")


def test_a_caller_renews_its_certificate_from_where_it_is(calls: System) -> None:
    host, identity = calls.topology.host("other"), calls.directory / "ci"
    where = ["--server", f"{CLOUD}:10262", "--identity", identity]
    before = {each.name: each.read_bytes() for each in identity.iterdir()}
    done = host.run([TUNNELCTL, "caller", "renew", *where])
    assert (done.returncode, done.stderr, done.stdout.count("\n")) == (0, "", 1)
    assert done.stdout.startswith("caller ci, until ")
    after = {each.name: each.read_bytes() for each in identity.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"caller.crt", "caller.key"}
    with Way(calls, host, where).forwarding("8888:9081"):
        assert curl_json(host, "http://127.0.0.1:8888/")["machine"] == "edge-1"
