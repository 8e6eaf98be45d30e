"""An agent with two links: when either is lost, what it carried goes on on the other, byte by byte.

Lost at once, both come back, and what they carried with them.
"""

import time
from collections.abc import Callable

from tests.e2e.network import dropping
from tests.e2e.system import System
from tests.e2e.transfers import Transfers
from tunnelctl.demo.topology import Host

KINDS = {"download": 6, "upload": 4, "ssh": 2, "websocket": 2, "half-closed": 2}


def ports(edge: Host) -> set[str]:
    """Of the agent's links, at its end."""
    lines = edge.run(["ss", "-Htn", "state", "established", "dport", "=", ":10262"]).stdout.splitlines()
    return {line.split()[2].rpartition(":")[2] for line in lines}


def test_either_link_may_be_lost_and_both(
    deploy: Callable[..., System], figure: Callable[[str, float], None]
) -> None:
    own = deploy()
    own.start_server()
    edge = own.topology.edge(1)
    own.add_edge(edge, links=2)
    own.until(lambda: len(ports(edge)) == 2, "server", "edge-1")
    transfers = Transfers(own, KINDS, 8)
    transfers.start()
    own.until(lambda: own.nodes()["edge-1"]["open_calls"] == sum(KINDS.values()), "server", "edge-1")
    own.until(lambda: min(transfers.arrived()) > 0, "server", "edge-1")
    first = ports(edge)
    for port in sorted(first):
        before = transfers.arrived()
        edge.run(["ss", "-K", "sport", "=", f":{port}"])
        watch = own.stopwatch("server", "edge-1")
        _, most = transfers.first_bytes(time.monotonic(), before)
        figure("s from the loss of one of two links to the next byte, the last of the downloads", most)
        assert most - watch.waited() < 2
        own.until(lambda: len(ports(edge)) == 2, "server", "edge-1")
    second, before = ports(edge), transfers.arrived()
    with dropping(own.topology.host("nat")):
        edge.run(["ss", "-K", "dport", "=", ":10262"])
        time.sleep(2)  # the server has heard nothing of it
        assert ports(edge) == set()
    watch = own.stopwatch("server", "edge-1")
    _, most = transfers.first_bytes(time.monotonic(), before)
    figure("s from the end of a cut of 2 s, in which both were lost, to the next byte of the last", most)
    assert most - watch.waited() < 4
    own.until(lambda: len(ports(edge)) == 2, "server", "edge-1")
    transfers.finish()
    assert not ports(edge) & (first | second)
    assert not first & second
    node = own.nodes()["edge-1"]
    assert node["suspended_calls"] == 0
    assert {link["remote_address"].rpartition(":")[2] for link in node["links"]} == ports(edge)
