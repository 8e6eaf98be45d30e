"""Programs that are killed, started late and started again, and machines that know it."""

import json
import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.network import dial, read_to_end
from tests.e2e.system import EDGE_1, RESET, System, curl

URL = f"http://{EDGE_1}:9081/"
PROMPT = {"backoff_max": 1}
"""Its server ends again and again: else the agent would wait longer from time to time."""


@pytest.fixture(scope="module")
def deployed(deploy_for_module: Callable[..., System]) -> System:
    """One edge with its service, 9081 mapped."""
    made = deploy_for_module()
    made.start_server()
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1), **PROMPT)
    made.map_port("9081=10264")
    return made


@pytest.fixture
def own(deployed: System) -> System:
    """The same: to be broken. What the last test left ended is started again, and it works."""
    running = deployed.processes.names()
    if "server" not in running:
        deployed.start_server()
    if "edge-1" not in running:
        deployed.start_agent(deployed.topology.edge(1), **PROMPT)
    _again(deployed)
    return deployed


def _rules(system: System) -> str:
    return system.topology.cloud.run(["nft", "list", "ruleset"]).stdout


def _again(system: System) -> None:
    system.until(lambda: _answers(system), "server", "edge-1")


def _answers(system: System) -> bool:
    return curl(system.topology.cloud, URL).returncode == 0


def test_an_agent_waits_for_its_server(own: System) -> None:
    own.kill("edge-1", signal.SIGTERM)
    own.kill("server", signal.SIGTERM)
    agent = own.start_agent(own.topology.edge(1), **PROMPT)
    time.sleep(2)  # real time, in which an agent that gives up would
    assert agent.poll() is None
    own.start_server()
    _again(own)


def test_sigterm_leaves_no_rule(own: System) -> None:
    assert "edge-tunnel" in _rules(own)
    assert own.kill("server", signal.SIGTERM) == 0
    assert _rules(own) == ""
    own.start_server()
    _again(own)


def test_sigkill_leaves_no_rule_either_and_all_comes_back(own: System) -> None:
    assert own.kill("server") == -signal.SIGKILL
    own.within(2, lambda: _rules(own) == "")
    own.start_server()
    _again(own)
    assert "9081" in own.ctl("map-port", "--list"), "the mapping was not kept"


def test_somebody_elses_flush_is_repaired(own: System) -> None:
    flushed = own.topology.cloud.run(["nft", "flush", "ruleset"])
    assert flushed.returncode == 0, flushed.stderr
    own.within(5, lambda: _answers(own), "server", "edge-1")
    assert "edge-tunnel" in _rules(own)


@pytest.mark.parametrize("who", ["edge-1", "server"])
def test_a_transfer_cut_short_never_ends_clean(own: System, who: str) -> None:
    """An end is killed in the middle: the caller is reset, or it would take half a file for all of it."""
    with dial(own.topology.cloud, (EDGE_1, 9081)) as caller:
        caller.sendall(f"GET /pattern?mib=10000 HTTP/1.1\r\nHost: {EDGE_1}\r\n\r\n".encode())
        assert len(caller.recv(1 << 20)) > 0
        own.kill(who)
        if who == "edge-1":
            # Until another comes, it may be the network: the call waits.
            own.start_agent(own.topology.edge(1))
        caller.settimeout(30)
        with pytest.raises(ConnectionResetError):
            read_to_end(caller)


def test_an_agent_killed_comes_back_as_itself(own: System) -> None:
    own.kill("edge-1")
    own.start_agent(own.topology.edge(1), **PROMPT)
    _again(own)
    assert own.connected() == {"edge-1"}


def test_a_calls_failure_while_the_edge_is_away_is_told(own: System) -> None:
    """A known node's address stays captured while it is away; the call waits a while, then is reset."""
    own.kill("edge-1", signal.SIGTERM)
    own.until(lambda: own.connected() == set(), "server")
    began, watch = time.monotonic(), own.stopwatch("server")
    failed = curl(own.topology.cloud, "--max-time", "20", URL)
    assert failed.returncode in RESET, f"not a reset: {failed.stderr}"
    # limits.away-wait
    assert time.monotonic() - began > 4.5
    assert watch.seconds() < 8
    assert "edge-1" in own.ctl("status")
    assert json.loads(own.ctl("status", "--json"))
