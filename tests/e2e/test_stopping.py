"""SIGTERM: nobody new is let in, and open calls get the time that they are given."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.network import dial, dropping, read_to_end
from tests.e2e.shortage import Pause
from tests.e2e.system import EDGE_1, RESET, System, curl, curl_json

AGENT = {"backoff_max": 1, "connect_timeout": 1}


@pytest.fixture(scope="module")
def deployed(deploy_for_module: Callable[..., System]) -> System:
    """One edge with its service, 9081 mapped."""
    made = deploy_for_module()
    made.start_server(**{"limits.drain-timeout": 20})
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1), **AGENT)
    made.map_port("9081=10264")
    return made


def ready(own: System) -> dict[str, object]:
    answer: dict[str, object] = json.loads(
        own.topology.cloud.run(["curl", "-sS", "http://127.0.0.1:10265/readyz"]).stdout
    )
    return answer


def test_an_open_call_ends_by_itself(deployed: System) -> None:
    own, cloud = deployed, deployed.topology.cloud
    with Pause(cloud) as download:
        own.processes["server"].send_signal(signal.SIGTERM)
        own.within(3, lambda: not ready(own)["ready"], "server")
        refused = curl(cloud, "--max-time", "20", f"http://{EDGE_1}:9081/")
        assert refused.returncode in RESET, refused.stderr
        own.until(
            lambda: "retires this link: shutdown (the server is stopping)" in own.log("edge-1"), "edge-1"
        )
        assert own.status()["calls_open"] == 1
        download.finish()
    watch = own.stopwatch("server")
    assert own.processes["server"].wait(30) == 0
    assert watch.seconds() < 1
    assert cloud.run(["nft", "list", "ruleset"]).stdout == ""
    own.kill("server")


@pytest.mark.parametrize("again", [False, True])
def test_one_that_does_not_end_is_reset(deployed: System, *, again: bool) -> None:
    """After drain-timeout, or at once when the server is told once more."""
    own = deployed
    own.start_server(**{"limits.drain-timeout": 20 if again else 1})
    own.until(lambda: own.connected() == {"edge-1"}, "server", "edge-1")
    with dial(own.topology.cloud, (EDGE_1, 9081), timeout=30) as caller:
        caller.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        assert caller.recv(12) == b"HTTP/1.1 200"
        began, size, watch = time.monotonic(), len(own.log("server")), own.stopwatch("server")
        own.processes["server"].send_signal(signal.SIGTERM)
        if again:
            own.until(lambda: "1 calls are open" in own.log("server")[size:], "server")
            own.processes["server"].send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionResetError):
            read_to_end(caller)
        assert time.monotonic() - began > (0 if again else 1)
        assert watch.seconds() < 4
    assert own.processes["server"].wait(30) == 0
    assert own.topology.cloud.run(["nft", "list", "ruleset"]).stdout == ""
    own.kill("server")


NARROW = "limit rate over 2 mbytes/second burst 256 kbytes"
"""What a router drops: the rest of a transfer queues with who sends it."""


@pytest.mark.parametrize("stopped", ["edge-1", "server"])
def test_who_stops_is_heard_through_a_full_uplink(deployed: System, *, stopped: str) -> None:
    """Else whoever is left would wait for it, with the caller or the target."""
    own, edge = deployed, deployed.topology.edge(1)
    if "server" not in own.processes.names():
        own.start_server()
    own.until(lambda: own.connected() == {"edge-1"}, "server", "edge-1")
    agent_sends = stopped == "edge-1"
    asked = b"GET /pattern?mib=64" if agent_sends else b"PUT /upload"
    narrow = f"ip {'saddr' if agent_sends else 'daddr'} {EDGE_1} {NARROW}"
    with (
        dropping(own.topology.host("nat"), narrow),
        dial(own.topology.cloud, (EDGE_1, 9081), timeout=30) as caller,
    ):
        caller.sendall(asked + b" HTTP/1.0\r\nContent-Length: 67108864\r\n\r\n")
        began, size = time.monotonic(), len(own.log("server"))
        while time.monotonic() - began < 1:
            assert caller.recv(1 << 16) if agent_sends else caller.send(bytes(1 << 16))
        own.processes[stopped].send_signal(signal.SIGTERM)
        if not agent_sends:
            own.until(lambda: "1 calls are open" in own.log("server")[size:], "server")
            own.processes["server"].send_signal(signal.SIGTERM)  # it need not wait for the call
        with pytest.raises(ConnectionResetError):
            read_to_end(caller)
        if not agent_sends:
            status = "http://127.0.0.1:10266/status"
            own.until(lambda: curl_json(edge, status)["streams"] == 0, "edge-1")
    assert own.processes[stopped].wait(30) == 0
    own.kill(stopped)
    if agent_sends:
        own.start_agent(edge, **AGENT)
