"""Hardly more memory than the budget: nobody is killed, and what waits longest for a link makes room."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.e2e.memory_group import memory_group, missing_memory_group
from tests.e2e.shortage import Pause, Visit, said
from tests.e2e.system import EDGE_1, EDGE_2, System
from tunnelctl.demo.topology import Site

pytestmark = pytest.mark.skipif(bool(missing_memory_group()), reason=missing_memory_group())

EDGE_3 = "192.168.2.145"
BUDGET = 8
"""MiB: what 64 streams are promised at least."""
SHARE = 32
"""Of these, one node's."""
BESIDE = 8
"""MiB beside the budget, for the streams themselves and all else that a program does."""


@pytest.mark.long
def test_of_a_server(deploy: Callable[..., System], figure: Callable[[str, float], None]) -> None:
    own = deploy(sites=(Site(edges={"edge-1": EDGE_1, "edge-2": EDGE_2, "edge-3": EDGE_3}),))
    audit = own.directory / "audit.log"
    own.start_server(**{
        "http-proxy-ports": "9081",
        "audit-log": audit,
        "limits.memory-budget": BUDGET << 20,
    })  # fmt: skip
    cloud = own.topology.cloud
    for number in (1, 2, 3):
        own.serve(own.topology.edge(number), "http", 9081)
        own.add_edge(own.topology.edge(number), backoff_max=1)
    server = own.processes["server"].pid
    with ExitStack() as stack:
        group = stack.enter_context(memory_group(cloud.namespace, server, BUDGET + BESIDE))
        opened: list[Visit] = [stack.enter_context(Visit(cloud))]
        opened[0].works()
        opened += [stack.enter_context(Pause(cloud, mib=2)) for _ in range(SHARE - 1)]
        with pytest.raises(ConnectionError):
            Pause(cloud, mib=2)
        own.until(lambda: "call failed: no-room: this node's share" in own.log("server"), "server")
        opened[0].works()

        own.kill("edge-1")
        own.until(lambda: own.nodes()["edge-1"]["suspended_calls"] == SHARE, "server")
        others = [
            stack.enter_context(Pause(cloud, address=address, mib=2))
            for address, count in ((EDGE_2, SHARE), (EDGE_3, 10))
            for _ in range(count)
        ]
        assert own.status()["memory_used_bytes"] <= BUDGET << 20

        def told() -> int:
            entries = map(json.loads, audit.read_text().splitlines())
            return sum(each.get("detail", "").endswith("its memory was needed") for each in entries)

        # What had arrived for them may still be read for a second.
        own.until(lambda: 10 <= told() == sum(each.is_reset() for each in opened), "server")
        ended = [each.is_reset() for each in opened]
        assert ended == sorted(ended, reverse=True), "the oldest first"
        own.start_agent(own.topology.edge(1), backoff_max=1)
        own.until(lambda: all(each.is_reset() for each in opened), "server", "edge-1")
        for each in others:
            each.finish()
        again = stack.enter_context(Pause(cloud))
        again.finish()
        figure(f"MiB that a server with a budget of {BUDGET} takes for too many callers", group.peak)
        assert group.killed == 0
        assert own.processes["server"].poll() is None
    own.until(lambda: own.status()["memory_used_bytes"] == 0, "server")
    assert "Traceback" not in own.log("server")


def test_of_an_agent(deploy: Callable[..., System], figure: Callable[[str, float], None]) -> None:
    own = deploy()
    own.start_server(http_proxy_ports="9081")
    cloud, edge = own.topology.cloud, own.topology.edge(1)
    own.serve(edge, "http", 9081)
    own.add_edge(edge, memory_budget=BUDGET << 20)
    agent, service = own.processes["edge-1"].pid, own.processes["http-edge-1-9081"].pid

    def upload(_: int) -> bool:
        try:
            with Visit(cloud, timeout=40) as visit:
                visit.works(kib=1024)
        except ConnectionError:
            return False
        return True

    with memory_group(edge.namespace, agent, BUDGET + BESIDE) as group, ThreadPoolExecutor(90) as pool:
        with Visit(cloud) as visit:
            visit.works()
            os.kill(service, signal.SIGSTOP)
            try:
                uploads = [pool.submit(upload, number) for number in range(90)]
                own.until(lambda: "a stream was refused: " in own.log("edge-1"), "edge-1")
                own.until(
                    lambda: own.status()["calls_open"] + sum(each.done() for each in uploads) == 91, "server"
                )
            finally:
                os.kill(service, signal.SIGCONT)
            served = [each.result(60) for each in uploads]
            visit.works()
        assert 30 < sum(served) < 90
        figure(f"MiB that an agent with a budget of {BUDGET} takes for too many callers", group.peak)
        assert group.killed == 0
    assert own.processes["edge-1"].poll() is None
    with Visit(cloud) as visit:
        visit.works()
    [line] = said(own, "edge-1", "a stream was refused: ")
    assert "the memory budget for streams is used up; see memory-budget" in line
    assert "call failed: no-room: at the agent, the memory budget" in own.log("server")
    assert "Traceback" not in own.log("edge-1")
