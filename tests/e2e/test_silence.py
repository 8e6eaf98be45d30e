"""A link that dies without a word: both ends notice within 15 seconds, and find together again."""

import time
from collections.abc import Callable

from tests.e2e.doctor import Doctor
from tests.e2e.network import dropping
from tests.e2e.system import EDGE_1, System, curl, curl_json

NOTICED = 15.0
URL = f"http://{EDGE_1}:9081/"


def test_both_ends_notice_within_15_seconds(
    deploy: Callable[..., System], figure: Callable[[str, float], None]
) -> None:
    own = deploy()
    own.start_server()
    edge, cloud = own.topology.edge(1), own.topology.cloud
    own.serve(edge, "http", 9081)
    own.add_edge(edge)
    own.map_port("9081=10264")
    assert curl_json(cloud, URL)["machine"] == "edge-1"
    assert _agent_ready(own)

    noticed: dict[str, float] = {}
    with dropping(own.topology.host("nat")):
        began, watch = time.monotonic(), own.stopwatch("server", "edge-1")
        silent = Doctor(own, "edge-1", "9081")
        while len(noticed) < 2 and time.monotonic() - began < 3 * NOTICED:
            if "server" not in noticed and own.connected() == set():
                noticed["server"] = watch.seconds()
            if "agent" not in noticed and not _agent_ready(own):
                noticed["agent"] = watch.seconds()
            time.sleep(0.2)
        lost = Doctor(own, "edge-1", "9081")
    assert (silent.code, silent.failed, silent.skipped) == (1, ["heartbeat"], ["dial"]), silent.checks
    assert "no answer to a PING within 5 s" in silent.told("heartbeat")
    assert "a firewall or NAT that forgot the connection" in silent.told("heartbeat")
    assert (lost.code, lost.failed) == (1, ["link"]), lost.checks
    assert "nothing received for 12 s" in lost.told("link")
    assert "the network fell silent" in lost.told("link")
    assert set(noticed) == {"server", "agent"}
    figure("s until both ends noticed a dead link", max(noticed.values()))
    assert max(noticed.values()) <= NOTICED + 1, f"seconds: {noticed}"
    own.until(lambda: curl(cloud, URL).returncode == 0, "server", "edge-1")


def _agent_ready(own: System) -> bool:
    return curl(own.topology.edge(1), "http://127.0.0.1:10266/readyz").returncode == 0
