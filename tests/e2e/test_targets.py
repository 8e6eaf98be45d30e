"""What can be wrong with a target: the caller learns it in time, the operator why, and nobody else waits."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.network import dial, dropping, read_to_end
from tests.e2e.system import EDGE_1, System, curl_json, resident

DIAL_TIMEOUT = 3.0
URL = f"http://{EDGE_1}:9081/"


@pytest.fixture(scope="module")
def targets(deploy_for_module: Callable[..., System]) -> Iterator[System]:
    """One edge that allows only some ports, and gives up a dial after three seconds."""
    made = deploy_for_module()
    made.start_server()
    edge = made.topology.edge(1)
    made.serve(edge, "http", 9081)
    made.add_edge(edge, allow=["node:9081-9083"], dial_timeout=DIAL_TIMEOUT)
    for port in (9081, 9082, 9083, 9084):
        made.map_port(f"{port}=10264")
    with dropping(edge, "tcp dport 9083", hook="input"):
        yield made


@pytest.mark.parametrize(
    ("port", "least", "most", "cause"),
    [
        (9082, 0, DIAL_TIMEOUT - 1, "refused"),
        (9083, DIAL_TIMEOUT - 0.5, DIAL_TIMEOUT + 2, "timed out"),
        (9084, 0, DIAL_TIMEOUT - 1, "allow"),
    ],
)
def test_the_caller_is_reset_in_time_and_the_cause_is_told(
    targets: System, port: int, least: float, most: float, cause: str
) -> None:
    began, watch = time.monotonic(), targets.stopwatch("server", "edge-1")
    assert _fails(targets, port)
    assert time.monotonic() - began >= least
    assert watch.seconds() <= most
    targets.until(lambda: cause in _words(targets, port), "server")
    assert cause in targets.ctl("status").lower().replace("-", " ").replace("_", " ")


def test_nothing_else_waits_for_a_dead_target(targets: System) -> None:
    cloud = targets.topology.cloud
    with ThreadPoolExecutor(50) as pool:
        waiting = [pool.submit(_fails, targets, 9083) for _ in range(50)]
        while not any(future.done() for future in waiting):
            watch = targets.stopwatch("server", "edge-1")
            assert curl_json(cloud, URL)["machine"] == "edge-1"
            assert watch.seconds() < DIAL_TIMEOUT / 2
        assert all(future.result() for future in waiting)


@pytest.mark.timeout(300)
def test_ten_thousand_failed_dials_leave_nothing(targets: System) -> None:
    server, agent = targets.processes["server"].pid, targets.processes["edge-1"].pid
    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(lambda _: _fails(targets, 9082), range(2000)))
        before = resident(server), resident(agent)
        assert all(pool.map(lambda _: _fails(targets, 9082), range(10_000)))
    grown = resident(server) - before[0], resident(agent) - before[1]
    assert max(grown) < 4, f"MiB grown in 10,000 failed dials, server and agent: {grown}"
    assert curl_json(targets.topology.cloud, URL)["machine"] == "edge-1"


def _fails(system: System, port: int) -> bool:
    try:
        # The reset may come before connect() has returned.
        with dial(system.topology.cloud, (EDGE_1, port), timeout=20) as caller:
            read_to_end(caller)
    except ConnectionResetError:
        return True
    return False


def _words(system: System, port: int) -> str:
    lines = [line for line in system.log("server").splitlines() if f"{EDGE_1}:{port}" in line]
    return "\n".join(lines).lower().replace("-", " ").replace("_", " ")


def test_a_slow_reader_keeps_nobody_waiting(targets: System) -> None:
    """A caller that asks for much and reads nothing is bounded, and is alone with it."""
    server, agent = targets.processes["server"].pid, targets.processes["edge-1"].pid
    before = resident(server), resident(agent)
    with dial(targets.topology.cloud, (EDGE_1, 9081)) as idle:
        idle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        idle.sendall(f"GET /pattern?mib=200 HTTP/1.1\r\nHost: {EDGE_1}\r\n\r\n".encode())
        time.sleep(1)  # real time, in which the target sends as much as it may
        watch = targets.stopwatch("server", "edge-1")
        assert curl_json(targets.topology.cloud, URL)["machine"] == "edge-1"
        assert watch.seconds() < 5
        grown = resident(server) - before[0], resident(agent) - before[1]
    assert max(grown) < 40, f"MiB held for one reader that does not read, server and agent: {grown}"
