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
        own.until(lambda step=step: roll(step), running(own), "edge-1")  # refused until all are ready


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
    Fault("configuration", _reloaded),
    Fault("authority rolled", _rolled),
)
"""A process lives through these, and so do its calls."""
REPLACING = (
    Fault("taken over", _taken_over),
    Fault("agent killed", _agent_killed, refuses=True, ends=True),
    Fault("agent stopped", _agent_stopped, refuses=True, ends=True),
    Fault("server killed", _server_killed, refuses=True, ends=True),
)
"""These end a process, whose readings end with it."""
