"""What befalls a deployment while it works: each fault is over, and mended, when its function returns."""

import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.e2e.network import dropping, rebind
from tests.e2e.system import System
from tests.e2e.test_handover import running, take_over
from tests.e2e.test_kills import rules
from tests.e2e.test_several_links import ports
from tunnelctl.demo.topology import Host

LINKS = {"edge-1": 1, "edge-2": 2}
"""The agents, and how many links each has. The second lives as long as the run."""
AGENT = {"backoff_max": 1, "refresh_interval": 1}
_ADDRESSES = ("203.0.113.11", "203.0.113.12")


@dataclass(frozen=True)
class Fault:
    """One kind of it."""

    name: str
    inflict: Callable[[System, random.Random], None]
    refuses: bool = False
    """New calls may fail meanwhile: the edge is away for longer than they wait."""
    ends: bool = False
    """Open calls end, too."""
    only: str = ""
    """The one edge that it befalls. Whoever calls the other must not notice."""

    def befalls(self, edge: str) -> bool:
        return self.only in ("", edge)


def _silence(own: System, chance: random.Random) -> None:
    """The uplink swallows every packet."""
    with dropping(own.topology.host("nat")):
        time.sleep(chance.uniform(0.5, 10))


def _unplugged(own: System, chance: random.Random) -> None:
    own.topology.cut("nat")
    time.sleep(chance.uniform(0.5, 10))
    own.topology.heal("nat")


def _rebound(own: System, _: random.Random) -> None:
    """The NAT forgets its table, and has another address."""
    nat = own.topology.host("nat")
    shown = nat.run(["ip", "-4", "-o", "address", "show", "dev", "internet"]).stdout
    old, new = _ADDRESSES if f" {_ADDRESSES[0]}/" in shown else reversed(_ADDRESSES)
    rebind(nat, old, new)


def _flapping(own: System, chance: random.Random) -> None:
    """The second edge's cable is loose, and as often as not its machine drops the connections each time."""
    nat, edge = own.topology.host("nat"), own.topology.edge(2)
    for _ in range(chance.randint(4, 8)):
        _port(nat, "down")
        try:
            if chance.random() < 0.5:
                edge.run(["ss", "-K", "dport", "=", ":10262"])
            time.sleep(chance.uniform(0.2, 2))
        finally:
            _port(nat, "up")
        time.sleep(chance.uniform(0.5, 2))


def _port(nat: Host, state: str) -> None:
    done = nat.run(["ip", "link", "set", "dev", "edge-2", state])
    assert done.returncode == 0, done.stderr


def _one_lost(own: System, chance: random.Random) -> None:
    """One of the second edge's two links is reset."""
    edge = own.topology.edge(2)
    own.until(lambda: len(ports(edge)) == 2, running(own), "edge-2")
    edge.run(["ss", "-K", "sport", "=", f":{chance.choice(sorted(ports(edge)))}"])


def _taken_over(own: System, _: random.Random) -> None:
    """Another server takes the place of the one that runs."""
    old, _new = take_over(own)
    own.until(lambda: old in own.processes.ended(), old)
    assert own.processes.end(old) == 0


def _rolled(own: System, _: random.Random) -> None:
    """The authority is rolled, and every certificate renewed."""

    def roll(step: str) -> dict[str, object]:
        words = ("ca", "roll", step, "--json", "--state-dir", own.state)
        done = own.try_ctl(*words)
        status: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 else {}
        return status

    for step in ("start", "switch", "finish"):
        own.until(lambda step=step: roll(step), running(own), *LINKS)  # refused until all are ready


def _reloaded(own: System, chance: random.Random) -> None:
    """The server's configuration changes."""
    own.configure(**{"limits.calls": chance.randrange(10_000, 20_000)})
    server = own.processes[running(own)]
    size = len(own.log(running(own)))
    server.send_signal(signal.SIGHUP)
    own.until(lambda: "configuration: " in own.log(running(own))[size:], running(own))


def _agent_killed(own: System, _: random.Random) -> None:
    own.kill("edge-1")
    own.start_agent(own.topology.edge(1), **AGENT)


def _agent_stopped(own: System, _: random.Random) -> None:
    assert own.kill("edge-1", signal.SIGTERM) == 0
    own.start_agent(own.topology.edge(1), **AGENT)


def _server_killed(own: System, _: random.Random) -> None:
    own.kill(running(own))
    assert rules(own) == ""
    own.start_server()


GENTLE = (
    Fault("silence", _silence, refuses=True),
    Fault("unplugged", _unplugged, refuses=True),
    Fault("another NAT address", _rebound),
    Fault("edge-2 flapping", _flapping, refuses=True, only="edge-2"),
    Fault("edge-2 loses one of its links", _one_lost, only="edge-2"),
    Fault("configuration", _reloaded),
    Fault("authority rolled", _rolled),
)
"""A process lives through these, and so do its calls."""
REPLACING = (
    Fault("taken over", _taken_over),
    Fault("edge-1 killed", _agent_killed, refuses=True, ends=True, only="edge-1"),
    Fault("edge-1 stopped", _agent_stopped, refuses=True, ends=True, only="edge-1"),
    Fault("server killed", _server_killed, refuses=True, ends=True),
)
"""These end a process, whose readings end with it."""
