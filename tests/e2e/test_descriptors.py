"""A running program has no file descriptor left: what is open goes on, what waits is served afterwards."""

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.egress import ask, over_tls, over_unix_socket
from tests.e2e.network import abort, dial, listen
from tests.e2e.shortage import Pause, Visit, busy, descriptors, said
from tests.e2e.system import CLOUD, System
from tunnelctl.demo.topology import Host

OTHER = "203.0.113.20"
META = "http://127.0.0.1:10265/healthz"
HEALTH = "http://127.0.0.1:10266/healthz"
WATCHED = 1.5
"""Seconds in which a program in want is watched."""
IDLE = 0.1
"""Of a CPU, which one that tried again and again would take whole."""


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    """Two edges; the caller `prom` may have the server dial."""
    made = deploy_for_module()
    made.ctl("caller", "create", "prom", "--state-dir", made.state, "--out", made.directory / "prom")
    made.start_server(
        **{
            "http-proxy-ports": "9081",
            "connect-socket": made.directory / "connect.sock",
            "callers.prom.direct": True,
        }
    )
    one, two = made.topology.edge(1), made.topology.edge(2)
    made.serve(one, "http", 9081)
    made.add_edge(one, backoff_max=1)
    made.add_edge(two)
    return made


def stranger(host: Host, own: System) -> ssl.SSLSocket:
    """A connection to the public port, whose handshake has yet to come."""
    context = ssl.create_default_context(cafile=str(own.directory / "prom/ca.crt"))
    sock = dial(host, (CLOUD, 10262), timeout=20)
    return context.wrap_socket(sock, server_hostname=CLOUD, do_handshake_on_connect=False)


def test_a_server_that_can_open_no_more(own: System) -> None:
    """It accepts nobody at any of its ports, dials nobody, reads no revocation; and then does all of it."""
    cloud, other = own.topology.cloud, own.topology.host("other")
    server, since = own.processes["server"].pid, len(own.log("server"))
    with ExitStack() as stack:
        visit, download = stack.enter_context(Visit(cloud)), stack.enter_context(Pause(cloud))
        visit.works()
        prom = stack.enter_context(over_tls(other, (CLOUD, 10262), own.directory / "prom")())
        stack.enter_context(listen(other, ("0.0.0.0", 8080)))
        with descriptors(server):
            answer = ask(lambda: prom, f"{OTHER}:8080")[1]
            assert answer.startswith(b"HTTP/1.1 503 no-room"), answer
            assert b"LimitNOFILE" in answer
            # What that call had open, one of these takes.
            visits = [stack.enter_context(Visit(cloud)) for _ in range(5)]
            for each in visits:
                each.ask()
            strangers = [stack.enter_context(stranger(other, own)) for _ in range(3)]
            local = stack.enter_context(over_unix_socket(own.directory / "connect.sock")())
            asked = own.start("meta", cloud, "curl", "-sS", "--fail", META)
            own.ctl("revoke", "edge-2", "--state-dir", own.state)
            own.until(lambda: said(own, "server", "what was in force stays in force", since=since), "server")
            taken = busy(server, WATCHED)
            assert asked.poll() is None
            visit.works()
        assert taken < IDLE
        for each in visits:
            each.answered()
        for waiting in strangers:
            waiting.do_handshake()
        answer = ask(lambda: local, "edge-1:9081")[1]
        assert answer.startswith(b"HTTP/1.1 200"), answer
        assert asked.wait(30) == 0
        own.within(5, lambda: "edge-2" not in own.connected(), "server")
        visit.works()
        download.finish()
    [line] = said(own, "server", "cannot accept", since=since)
    assert "Too many open files" in line
    assert "LimitNOFILE" in line
    assert len(said(own, "server", "stays in force", since=since)) == 1
    assert "Traceback" not in own.log("server")


def test_an_agent_that_can_open_no_more(own: System) -> None:
    """It dials no target, answers nobody who asks for its health, and loses its link; and comes back."""
    cloud, edge = own.topology.cloud, own.topology.edge(1)
    agent, since = own.processes["edge-1"].pid, len(own.log("edge-1"))
    with Pause(cloud, mib=16) as bulk:
        bulk.finish()
    # With that it loads what encrypts bulk: what is open for a moment then would be free in the next.
    own.within(10, lambda: "cryptography" in Path(f"/proc/{agent}/maps").read_text(), "edge-1")
    busy(agent, WATCHED)
    with Visit(cloud) as visit, Pause(cloud) as download:
        visit.works()
        with descriptors(agent):
            for _ in range(5):
                with pytest.raises(ConnectionError), Visit(cloud) as refused:
                    refused.works()
            asked = own.start("health", edge, "curl", "-sS", "--fail", HEALTH)
            taken = busy(agent, WATCHED)
            visit.works()
            assert asked.poll() is None
        assert taken < IDLE
        assert asked.wait(30) == 0
        with Visit(cloud) as served:
            served.works()
        [line] = said(own, "edge-1", "a stream was refused", since=since)
        assert "too many open files" in line
        assert "LimitNOFILE" in line
        assert len(said(own, "edge-1", "cannot accept", since=since)) == 1

        since = len(own.log("edge-1"))
        with descriptors(agent, limit=4):
            abort(edge, 10262)
            own.until(lambda: said(own, "edge-1", "Too many open files", since=since), "edge-1")
            taken = busy(agent, WATCHED)
            assert own.nodes()["edge-1"]["suspended_calls"] >= 2
        assert taken < IDLE
        own.until(lambda: "edge-1" in own.connected(), "server", "edge-1")
        visit.works()
        download.finish()
    [line] = said(own, "edge-1", "Too many open files", since=since)
    assert "LimitNOFILE" in line
    assert "Traceback" not in own.log("edge-1")
