"""An agent's configuration changes while it runs: whole or not at all, and no open call notices."""

import signal
import socket
from collections.abc import Callable

import pytest

from tests.e2e.network import accept, dial, listen
from tests.e2e.system import EDGE_1, RESET, System, curl, toml

URL = f"http://{EDGE_1}:9081/"
ELSEWHERE = ["loopback:*", "node:9999"]
CHUNK = bytes(64 * 1024)


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(**{"http-proxy-ports": "9081, 9999"})
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1))
    return made


def write(system: System, text: str = "", **settings: object) -> int:
    """Change the agent's file, as an editor does; how long its log was before."""
    size, path = len(system.log("edge-1")), system.directory / "edge-1.toml"
    (fresh := path.with_suffix(".new")).write_text(toml(settings) + text)
    fresh.rename(path)
    return size


def hang_up(system: System) -> None:
    system.processes["edge-1"].send_signal(signal.SIGHUP)


def said(system: System, size: int, text: str) -> str:
    """The agent's log since it was `size` long, once the text stands in it."""
    system.until(lambda: text in system.log("edge-1")[size:], "edge-1")
    return system.log("edge-1")[size:]


def passes(sender: socket.socket, receiver: socket.socket) -> None:
    sender.sendall(CHUNK)
    left = len(CHUNK)
    while left:
        received = len(receiver.recv(left))
        assert received, "the transfer was ended"
        left -= received


def test_allow_is_narrowed_and_widened_while_a_transfer_runs(own: System) -> None:
    cloud, edge = own.topology.cloud, own.topology.edge(1)
    with (
        listen(edge, ("0.0.0.0", 9999)) as target,
        dial(cloud, (EDGE_1, 9999)) as caller,
        accept(target) as served,
    ):
        passes(caller, served)
        size = write(own, allow=["loopback:*", "node:9081"])
        hang_up(own)
        log = said(own, size, "configuration: ")
        assert 'configuration: allow: ["loopback:*", "node:*"] -> ["loopback:*", "node:9081"]' in log
        passes(served, caller)
        assert curl(cloud, URL).returncode == 0
        assert curl(cloud, f"http://{EDGE_1}:9999/").returncode in RESET
        said(own, size, f"a stream was refused: {EDGE_1}:9999 is not on the agent's allow-list")
        # By saving alone.
        size = write(own, allow=ELSEWHERE)
        said(own, size, '-> ["loopback:*", "node:9999"]')
        with dial(cloud, (EDGE_1, 9999)) as second, accept(target) as second_served:
            passes(second, second_served)
        assert curl(cloud, URL).returncode in RESET
        for sender, receiver in ((caller, served), (served, caller)):
            passes(sender, receiver)
    size = write(own)
    hang_up(own)
    said(own, size, '-> ["loopback:*", "node:*"]')
    assert curl(cloud, URL).returncode == 0
    assert own.log("edge-1").count("linked to ") == 1, "the link was not to end"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alow = []\n", "edge-1.toml:2: alow: unknown key; did you mean allow?"),
        ("dial-timeout = 'soon'\n", "edge-1.toml:2: dial-timeout: expected a duration"),
        ("backoff-max = 0.5\n", "edge-1.toml:2: backoff-max: 0.5 s is below backoff-min, 1 s"),
        ("servers = 'x'y\n", "edge-1.toml:2: is not valid TOML"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(own: System, text: str, says: str) -> None:
    size = write(own, text, allow=[])
    hang_up(own)
    log = said(own, size, "stays as it was")
    (line,) = log.splitlines()
    assert says in line
    assert curl(own.topology.cloud, URL).returncode == 0
    size = write(own)
    hang_up(own)
    said(own, size, "configuration read: nothing changes")


def test_what_needs_a_restart_is_named_and_the_rest_applies(own: System) -> None:
    size = write(own, **{"health-port": 10299, "log-level": "debug"})
    hang_up(own)
    log = said(own, size, "needs a restart")
    assert "health-port: 10266 -> 10299 needs a restart; until then it stays 10266" in log
    assert 'configuration: log-level: "info" -> "debug"' in log
    assert own.listens(own.topology.edge(1), 10266)
    size = write(own)
    hang_up(own)
    said(own, size, "log-level")
