"""A server takes over from the one that runs: no caller is refused, and no open call ends.

Thirteen servers are started here, one after another, each of which imports all that a server has: a second,
or two where the processors have other work. So it takes half a minute.
"""

import contextlib
import hashlib
import itertools
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import services
from tests.e2e.load import Load, by_connect_socket, to
from tests.e2e.network import dial, read_to_end
from tests.e2e.system import BIN, EDGE_1, System, curl, toml

FIXED, TAKEN = 19081, 19999
PAUSE = 0.03
"""Seconds between a caller's calls: they leave some of the processor to the server that starts."""
_count = itertools.count(2)


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """One edge with its service; callers may come by its address, a fixed listener and connect-socket."""
    made = deploy_for_module()
    made.start_server(listen=[f"127.0.0.1:{FIXED}=edge-1:9081"], audit_log=made.directory / "audit.log")
    made.serve(made.topology.edge(1), "http", 9081)
    made.serve(made.topology.cloud, "http", TAKEN)
    made.add_edge(made.topology.edge(1), backoff_max=1)
    made.map_port("9081=10264")
    return made


def successor(own: System, *, config: Path | None = None) -> str:
    """Start a server that takes over; the name of its process."""
    name = f"server-{next(_count)}"
    words = ["--config", str(config or own.directory / "server.toml"), "--take-over"]
    own.start(name, own.topology.cloud, BIN / "tunnel-server", *words)
    return name


def running(own: System) -> str:
    """The name of the server's process that came last."""
    return [name for name in own.processes.names() if name.startswith("server")][-1]


def take_over(own: System, config: Path | None = None) -> tuple[str, str]:
    """The names of the old and the new process, once the new one alone serves."""
    old, before, nodes = running(own), own.status()["instance"], own.connected()
    new = successor(own, config=config)
    own.until(lambda: "has taken over" in own.log(old), old, new)
    own.until(lambda: own.status()["instance"] != before, new)
    own.until(lambda: own.connected() == nodes, new)
    return old, new


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(300)])])
def test_nobody_is_refused_and_nothing_open_ends(
    own: System, times: int, figure: Callable[[str, float], None]
) -> None:
    cloud = own.topology.cloud
    table = re.findall("handle ([0-9]+)", cloud.run(["nft", "-a", "list", "tables"]).stdout)
    ways = {
        "captured": to(EDGE_1, 9081),
        "fixed": to("127.0.0.1", FIXED),
        "connect": by_connect_socket(str(own.directory / "connect.sock"), f"{EDGE_1}:9081"),
    }
    with contextlib.ExitStack() as stack:
        download = stack.enter_context(dial(cloud, (EDGE_1, 9081), timeout=30))
        download.sendall(f"GET /pattern?mib=4&seconds={2 * times} HTTP/1.0\r\n\r\n".encode())
        loads = {way: stack.enter_context(Load(cloud, connect, pause=PAUSE)) for way, connect in ways.items()}
        oldest = running(own)
        for _ in range(times):
            time.sleep(0.5)  # real time, in which all is as ever
            take_over(own)
        body = read_to_end(download).partition(b"\r\n\r\n")[2]
        assert hashlib.sha256(body).hexdigest() == services.pattern_digest(4)
    for way, load in loads.items():
        figure(f"calls {way}, slowest {load.slowest:.2f} s", load.served)
        assert load.failures == [], way
        assert load.served > 50
    own.until(lambda: oldest in own.processes.ended())  # the last call that it had was the download
    assert own.processes.ended()[oldest] == 0
    # It is the same table all the while.
    assert re.findall("handle ([0-9]+)", cloud.run(["nft", "-a", "list", "tables"]).stdout) == table


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        # Of what it does, nearly the first, and nearly the last; it would not capture the edge any more.
        ({"listen": ["192.0.2.1:80=edge-1:9081"]}, "this machine does not have that address"),
        ({"meta-port": TAKEN, "edge-networks": ["10.0.0.0/8"]}, "another program has the port"),
    ],
)
def test_what_does_not_come_up_changes_nothing(
    own: System, tmp_path: Path, settings: dict[str, object], why: str
) -> None:
    cloud, before = own.topology.cloud, own.status()["instance"]
    (config := tmp_path / "bad.toml").write_text(toml({**own.server_settings, **settings}))
    with (
        Load(cloud, to(EDGE_1, 9081), pause=PAUSE) as load,
        Load(cloud, to("127.0.0.1", FIXED), pause=PAUSE) as fixed,
    ):
        failed = successor(own, config=config)
        own.until(lambda: failed in own.processes.ended())
        assert why in own.log(failed)
        old = running_before(own, failed)
        own.until(lambda: "did not come up: this server goes on" in own.log(old), old)
        time.sleep(0.2)
    assert load.failures == fixed.failures == []
    assert own.status()["instance"] == before
    assert own.connected() == {"edge-1"}
    own.kill(failed)
    port = 9082 + ("listen" in settings)
    own.map_port(f"{port}=10264")  # it changes the table again
    assert str(port) in cloud.run(["nft", "list", "table", "inet", "edge-tunnel"]).stdout
    if "listen" in settings:
        take_over(own)
        assert {each["port"] for each in own.status()["mappings"]} >= {9081, port}


def predecessors(own: System) -> dict[str, float]:
    """The metrics of them."""
    text = curl(own.topology.cloud, "http://127.0.0.1:10265/metrics").stdout
    found = re.findall(r"^edge_tunnel_predecessors(\S*) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def running_before(own: System, name: str) -> str:
    names = [each for each in own.processes.names() if each.startswith("server")]
    return names[names.index(name) - 1]


def test_one_that_does_not_capture_leaves_no_table(own: System, tmp_path: Path) -> None:
    cloud = own.topology.cloud
    (config := tmp_path / "server.toml").write_text(toml({**own.server_settings, "intercept": False}))
    old, _new = take_over(own, config)
    own.until(lambda: old in own.processes.ended())
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    assert curl(cloud, f"http://127.0.0.1:{FIXED}/").returncode == 0
    take_over(own)
    assert curl(cloud, f"http://{EDGE_1}:9081/").returncode == 0


def test_one_that_is_not_asked_to_take_over_does_not(own: System) -> None:
    done = own.topology.cloud.run([BIN / "tunnel-server", "--config", own.directory / "server.toml"])
    assert done.returncode == 1
    assert "another program has the port" in done.stderr or "belongs to process" in done.stderr
    assert curl(own.topology.cloud, f"http://{EDGE_1}:9081/").returncode == 0


def test_the_old_one_can_be_stopped_and_the_new_one_removes_all(own: System) -> None:
    cloud = own.topology.cloud
    with dial(cloud, (EDGE_1, 9081)) as caller:
        caller.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        assert caller.recv(12) == b"HTTP/1.1 200"
        old, new = take_over(own)
        assert own.processes[old].poll() is None
        before = [{"pid": own.processes[old].pid, "version": own.status()["version"], "calls_open": 1}]
        own.until(lambda: own.status()["predecessors"] == before, new)
        assert f"process {own.processes[old].pid}" in own.ctl("status")
        own.until(lambda: predecessors(own) == {"": 1, "_calls_open": 1}, new)
        # Whose audit log has been moved away.
        (audit := own.directory / "audit.log").rename(own.directory / "audit.log.1")
        own.processes[new].send_signal(signal.SIGHUP)
        own.until(audit.exists)
        # One more takes over: it knows both.
        new = take_over(own)[1]
        own.until(lambda: own.status()["predecessors"] == before, new)
        assert own.kill(old, signal.SIGTERM) == 0
        with pytest.raises(ConnectionResetError):
            read_to_end(caller)
        assert "/events" not in audit.read_text()
        assert audit.read_text().count('"end":"cancelled"') == 1
        own.until(lambda: own.status()["predecessors"] == [], new)
        own.until(lambda: predecessors(own) == {"": 0, "_calls_open": 0}, new)
    assert curl(cloud, f"http://{EDGE_1}:9081/").returncode == 0
    assert json.loads(own.ctl("status", "--json"))["nodes_connected"] == 1
    assert own.kill(new, signal.SIGTERM) == 0
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    assert cloud.run(["ip", "route", "show", "proto", "126"]).stdout == ""
    assert [path.name for path in own.directory.glob("*.sock*") if path.is_socket()] == []
    # Where none runs, it starts as ever.
    name = successor(own)
    own.until(lambda: own.answers() and own.connected() == {"edge-1"}, name)


def test_callers_of_one_that_has_taken_over_and_is_killed_are_reset(own: System) -> None:
    """Also those whose connection has a number that was in use while it took over."""
    old, new = take_over(own)
    own.until(lambda: old in own.processes.ended(), old)
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(dial(own.topology.cloud, (EDGE_1, 9081))) for _ in range(4)]
        for caller in callers:
            caller.sendall(b"GET /events HTTP/1.0\r\n\r\n")
            assert caller.recv(12) == b"HTTP/1.1 200"
        own.kill(new)
        for caller in callers:
            with pytest.raises(ConnectionResetError):
                read_to_end(caller)
