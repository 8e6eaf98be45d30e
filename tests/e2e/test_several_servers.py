"""An agent that knows two servers: calls that are open stay with theirs, and new ones find the other."""

import hashlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.e2e import services, slow_path
from tests.e2e.network import accept, dial, dropping, listen, read_to_end
from tests.e2e.second_server import ADDRESS, NAME, SecondServer
from tests.e2e.system import CLOUD, EDGE_1, System, curl, curl_json
from tests.tunnel_wire.test_client_hello import hello

BOTH = [f"{CLOUD}:10262", f"{ADDRESS}:10262"]
URL = f"http://{EDGE_1}:9081/"
DRAIN = 4
DELAY = 2
"""Seconds for which calls wait for their server while the other one answers."""
POOLED = 4
"""Seconds that a server keeps calls that offer HTTP/2."""
ROUTER = "192.168.2.1"
"""The address of the edge's router, behind which a slow path to the first server begins."""
ONE_WAY = 1.6
"""Seconds: TLS alone, one round trip, takes longer than most tries get."""


class Pair(NamedTuple):
    """Both servers run, and the edge's agent knows both."""

    own: System
    other: SecondServer

    def agent(self, **settings: object) -> None:
        """Start the agent anew; return when it is linked to the first server."""
        if "edge-1" in self.own.processes.names():
            self.own.kill("edge-1")
        # In this order: left to itself, an agent has the server first that it was linked to last.
        settings = {"servers": BOTH, "backoff_max": 1, **settings}
        self.own.start_agent(self.own.topology.edge(1), **settings)
        self.own.until(lambda: self.own.connected() == {"edge-1"}, "server", "edge-1")


@pytest.fixture(scope="module")
def made(deploy_for_module: Callable[..., System]) -> Pair:
    own = deploy_for_module()
    own.ctl("init", "--cert-ips", f"{CLOUD},{ADDRESS},{ROUTER}", "--state-dir", own.state)
    limits = {"limits.drain-timeout": DRAIN, "limits.resume-grace-pooled": POOLED}
    own.start_server(**{"server-addresses": BOTH, **limits})
    edge = own.topology.edge(1)
    own.serve(edge, "http", 9081)
    joined = own.join(edge, own.join_line(edge.name, edge.address))
    assert joined.returncode == 0, joined.stderr
    own.map_port("9081=10264")
    return Pair(own, SecondServer(own, **{"server-addresses": BOTH}))


@pytest.fixture
def pair(made: Pair) -> Pair:
    """The same, to be broken: what has ended is started again."""
    running = made.own.processes.names()
    if "server" not in running:
        made.own.start_server()
    if NAME not in running:
        made.other.start()
    return made


@contextmanager
def download(pair: Pair, seconds: float) -> Iterator[Callable[[], str]]:
    """One through the first server that takes so long undisturbed; gives what tells the body's digest."""
    with dial(pair.own.topology.cloud, (EDGE_1, 9081), timeout=40) as sock:
        sock.sendall(f"GET /pattern?mib=2&seconds={seconds} HTTP/1.0\r\n\r\n".encode())
        assert sock.recv(12) == b"HTTP/1.1 200"
        yield lambda: hashlib.sha256(read_to_end(sock).partition(b"\r\n\r\n")[2]).hexdigest()


@contextmanager
def events(pair: Pair) -> Iterator[socket.socket]:
    """A call through the first server that has no end."""
    with dial(pair.own.topology.cloud, (EDGE_1, 9081), timeout=30) as sock:
        sock.sendall(b"GET /events HTTP/1.0\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
        yield sock


def test_while_only_theirs_is_cut_off_calls_wait_for_it(pair: Pair) -> None:
    own, nat, edge = pair.own, pair.own.topology.host("nat"), pair.own.topology.edge(1)
    pair.agent()
    with download(pair, 2) as digest:
        with dropping(nat, f"ip daddr {CLOUD}"):
            edge.run(["ss", "-K", "dport", "=", ":10262"])
            before, began = len(own.log("edge-1")), time.monotonic()
            own.until(lambda: f"{ADDRESS}:10262 answers" in own.log("edge-1")[before:], "edge-1")
            while time.monotonic() - began < 5:
                assert pair.other.connected() == set()
                time.sleep(0.2)
        assert digest() == services.pattern_digest(2)
    assert own.connected() == {"edge-1"}
    assert pair.other.connected() == set()


@pytest.mark.long
def test_a_try_may_take_longer_than_most_get(pair: Pair, figure: Callable[[str, float], None]) -> None:
    own, nat = pair.own, pair.own.topology.host("nat")

    def begin(delay: float) -> None:
        where = ["10262", CLOUD, "10262", str(delay)]
        own.start("slow", nat, sys.executable, slow_path.__file__, *where)
        own.until(lambda: own.listens(nat, 10262), "slow")

    begin(0)
    pair.agent(servers=[f"{ROUTER}:10262"])
    with events(pair) as endless:
        said = endless.recv(1 << 16)
        own.kill("slow")
        time.sleep(1)  # tries fail meanwhile
        begin(ONE_WAY)
        began, lines = time.monotonic(), said.count(b"\n")
        while said.count(b"\n") < lines + 200:
            said += endless.recv(1 << 16)
        figure(
            f"s until a call goes on, on a path of {2 * ONE_WAY:g} s round trip",
            time.monotonic() - began,
        )
    numbers = [int(line.split()[1]) for line in said.splitlines()[:-1] if line.startswith(b"data: ")]
    assert numbers == list(range(len(numbers)))
    own.kill("slow")


@pytest.mark.parametrize("links", [pytest.param(1, marks=pytest.mark.long), 2])
def test_the_agent_goes_elsewhere_and_open_calls_go_on(pair: Pair, links: int) -> None:
    """As long as the drain lasts; what is open after that is reset."""
    own, other = pair.own, pair.other
    pair.agent(links=links)
    with download(pair, 2) as digest, events(pair) as endless:
        began, watch = time.monotonic(), own.stopwatch("server")
        own.processes["server"].send_signal(signal.SIGTERM)
        own.within(5, lambda: curl(other.host, URL).returncode == 0, NAME, "edge-1")
        assert own.processes["server"].poll() is None, "it was over before the agent was elsewhere"
        assert digest() == services.pattern_digest(2)
        with pytest.raises(ConnectionResetError):
            read_to_end(endless)
        assert time.monotonic() - began > DRAIN - 1
        assert watch.seconds() < DRAIN + 3
    assert own.processes["server"].wait(30) == 0
    own.kill("server")
    assert other.connected() == {"edge-1"}
    assert curl(other.host, URL).returncode == 0


def test_without_calls_the_other_is_taken_at_once(pair: Pair) -> None:
    pair.agent()
    pair.own.kill("server")
    pair.own.within(5, lambda: pair.other.connected() == {"edge-1"}, NAME, "edge-1")
    assert curl(pair.other.host, URL).returncode == 0


def test_a_server_that_is_gone_for_good(pair: Pair, figure: Callable[[str, float], None]) -> None:
    """Its calls wait for it, and new ones for the agent; then they are reset, and the other has the agent."""
    own, other = pair.own, pair.other
    pair.agent(failover_delay=DELAY)
    target = "http-edge-1-9081"
    with events(pair) as endless:
        began, before, said = time.monotonic(), len(own.log("edge-1")), len(own.log(target))
        own.kill("server")
        with pytest.raises(ConnectionResetError):
            read_to_end(endless)
        own.until(lambda: "answers, but what is open" in own.log("edge-1")[before:], "edge-1")
        assert other.connected() == set()
        assert "ConnectionResetError" not in own.log(target)[said:]
        own.within(DELAY + 5, lambda: other.connected() == {"edge-1"}, NAME, "edge-1")
        assert time.monotonic() - began > DELAY
        figure(
            f"s until an agent with calls that wait {DELAY} s is at the next server",
            time.monotonic() - began,
        )
        assert curl(other.host, URL).returncode == 0
        own.until(lambda: "ConnectionResetError" in own.log(target)[said:], target)
        why = f"1 connections that waited for {BOTH[0]} are reset: {BOTH[1]} is another process"
        assert why in own.log("edge-1")[before:]


def test_a_connection_that_requests_share_keeps_no_agent_away(pair: Pair) -> None:
    """Theirs has said that it keeps such a one for less; the agent knows it by its ClientHello."""
    own, other, edge = pair.own, pair.other, pair.own.topology.edge(1)
    own.map_port("9082=10264")
    pair.agent(failover_delay=60)
    with (
        listen(edge, ("0.0.0.0", 9082)) as target,
        dial(own.topology.cloud, (EDGE_1, 9082)) as caller,
        accept(target) as served,
    ):
        caller.sendall(hello("h2"))
        assert served.recv(1)
        own.kill("server")
        began = time.monotonic()
        own.until(lambda: curl_json(edge, "http://127.0.0.1:10266/status")["waits_for"] == BOTH[0], "edge-1")
        assert curl_json(edge, "http://127.0.0.1:10266/status")["suspended_pooled"] == 1
        own.within(POOLED + 5, lambda: other.connected() == {"edge-1"}, NAME, "edge-1")
        assert time.monotonic() - began > POOLED
