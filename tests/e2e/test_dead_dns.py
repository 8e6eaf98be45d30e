"""A server that is dialled by its name: the uplink comes back and DNS does not, and calls go on all the same.

Twenty seconds: an uplink that is cut without a word is noticed after twelve.
"""

import json
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e import services
from tests.e2e.network import accept, dial, dropping, listen
from tests.e2e.system import EDGE_1, System
from tunnelctl.demo.topology import Host

NAME = "tunnel.example"
RESOLVER = "203.0.113.20"
PROMPT = 5.0
"""Seconds to the first byte once the uplink is back; one where nothing else is at work."""


@dataclass(frozen=True)
class Resolving(Host):
    """A host whose programs ask a resolver, by a file of their own in the place of the machine's."""

    settings: Path = Path()

    def command(self, argv: Any) -> list[str]:
        """The command line that runs `argv` there."""
        mount = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return super().command(["sh", "-c", mount, self.settings, *argv])


def echoed(caller: socket.socket, target: socket.socket) -> float:
    """Seconds until the target has what the caller sends, and the caller the answer."""
    began = time.monotonic()
    for one, other in ((caller, target), (target, caller)):
        one.sendall(b"still here")
        assert other.recv(100) == b"still here"
    return time.monotonic() - began


def test_calls_go_on_while_dns_is_dead(
    deploy: Callable[..., System], figure: Callable[[str, float], None]
) -> None:
    own = deploy()
    own.state = own.directory / "by-name"
    own.ctl("init", "--state-dir", own.state, "--cert-dns-names", NAME)
    own.start_server(**{"state-dir": own.state})
    resolver, nat, plain = own.topology.host("other"), own.topology.host("nat"), own.topology.edge(1)
    own.start("dns", resolver, sys.executable, services.__file__, "dns", "53", own.topology.cloud.address)
    (settings := own.directory / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    edge = Resolving(plain.name, plain.namespace, plain.address, settings)
    own.until(lambda: ":0035 " in resolver.run(["cat", "/proc/net/udp"]).stdout, "dns")
    own.add_edge(edge, refresh_interval=1)
    agent = own.processes[edge.name].pid
    own.map_port("9082=10264")

    def status() -> dict[str, Any]:
        done = plain.run(["curl", "-sS", "http://127.0.0.1:10266/status"])
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    with (
        listen(plain, ("0.0.0.0", 9082)) as target,
        dial(own.topology.cloud, (EDGE_1, 9082), timeout=30) as caller,
        accept(target, timeout=30) as served,
    ):
        echoed(caller, served)
        assert status()["names"] == {NAME: {"addresses": [own.topology.cloud.address], "unanswered_s": None}}
        with dropping(nat, "udp dport 53"):
            with dropping(nat):
                own.until(lambda: not own.connected() and status()["suspended"] == 1, "server", edge.name)
                own.until(lambda: (status()["names"][NAME]["unanswered_s"] or 0) > 2, edge.name)
                # Each second a try begins, and none of them asks again while the first question is open.
                assert status()["lookups"] == 1
                assert len(list(Path(f"/proc/{agent}/task").iterdir())) <= 3
            took = echoed(caller, served)
            figure("s from the end of a cut to the first byte, with dead DNS", took)
            # Certificates are looked after by processes of their own, which know where to ask, too.
            own.ctl("ca", "roll", "start", "--state-dir", own.state)
            own.until(lambda: "authority's certificates have changed" in own.log(edge.name), edge.name)
            # One that starts has never asked, and knows all the same.
            own.kill(edge.name)
            own.until(lambda: not own.connected())
            watch = own.stopwatch("server", edge.name)
            own.start_agent(edge)
            own.wait_ready(edge.name)
            started = watch.seconds()
            figure("s from an agent's start to its link, with dead DNS", started)
    assert took < PROMPT
    assert started < PROMPT
    assert "DNS does not answer: dialling where it was last" in own.log(edge.name)
