"""The disk is full: what is kept stays as it was, and what could not be written is, once there is room.

It takes some 20 s: a program is started for each command and each look of the agent.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.shortage import Disk, Pause, Visit, busy, contents, said
from tests.e2e.system import EDGE_1, EDGE_2, System
from tests.e2e.test_identity_over_time import serial

NO_ROOM = "No space left on device"


class Disks:
    """A deployment whose server has a disk of its own, and whose agents share one."""

    def __init__(self, system: System, stack: ExitStack) -> None:
        self.system = system
        one, two = system.topology.edge(1), system.topology.edge(2)
        self.server = Disk(system.directory / "server-disk", stack)
        self.server.hold(system.state)
        self.edges = Disk(system.directory / "edges-disk", stack)
        for edge in (one, two):
            self.edges.hold(system.agent_state(edge))
        system.init()
        system.start_server(http_proxy_ports="9081", audit_log=self.server.root / "audit.log")
        system.serve(one, "http", 9081)
        system.add_edge(one, refresh_interval=1)


@pytest.fixture(scope="module")
def made(deploy_for_module: Callable[..., System]) -> Iterator[Disks]:
    with ExitStack() as stack:
        yield Disks(deploy_for_module(), stack)


def roll(own: System, step: str) -> dict[str, object]:
    status: dict[str, object] = json.loads(own.ctl("ca", "roll", step, "--json", "--state-dir", own.state))
    return status


def test_of_an_agent(made: Disks) -> None:
    """It can take neither other roots nor another certificate, nor join again; and then it does."""
    own, disk = made.system, made.edges
    one, two = own.topology.edge(1), own.topology.edge(2)
    state, since = own.agent_state(one), own.nodes()["edge-1"]["since"]
    first, again = own.join_line("edge-2", EDGE_2), own.join_line("edge-1", EDGE_1)
    before, shown = contents(state), serial(state / "node.crt")

    def failed() -> list[str]:
        return said(own, "edge-1", "the certificate could not be looked after", NO_ROOM)

    with Visit(own.topology.cloud) as visit, Pause(own.topology.cloud) as download:
        with disk.full():
            roll(own, "start")
            own.until(failed, "edge-1")
            for edge, words in ((two, first), (one, [*again, "--force"])):
                refused = own.join(edge, words)
                assert (refused.returncode, NO_ROOM in refused.stderr) == (1, True), refused
                assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
            assert contents(state) == before
            assert contents(own.agent_state(two)) == {}
            assert busy(own.processes["edge-1"].pid, 2) < 0.2
            visit.works()
        assert own.join(two, first).returncode == 0
        own.until(lambda: roll(own, "status")["ready"], "server", "edge-1")
        before = contents(state)
        with disk.full():
            roll(own, "switch")
            own.until(lambda: len(failed()) == 2, "edge-1")
            assert contents(state) == before
            assert own.nodes()["edge-1"]["since"] == since
        own.until(lambda: serial(state / "node.crt") != shown, "server", "edge-1")
        visit.works()
        download.finish()
    assert len(failed()) == 2
    assert "Traceback" not in own.log("edge-1")


def test_of_a_server(made: Disks) -> None:
    """It issues, revokes and maps nothing, serves everybody, and starts; and then it does what it is told."""
    own, disk, cloud = made.system, made.server, made.system.topology.cloud
    two = own.topology.edge(2)
    line, audit = own.join_line("edge-2", EDGE_2), disk.root / "audit.log"
    before, backup = contents(own.state), disk.root / "backup"
    where = ["--state-dir", str(own.state)]
    commands = [
        ["token", "create", "--node", "edge-2", *where],
        ["token", "revoke", line[line.index("--token") + 1].partition(".")[0], *where],
        ["revoke", "edge-1", *where],
        ["init", "--cert-dns-names", "tunnel.example.org", *where],
        ["caller", "create", "prom", "--out", str(disk.root / "prom"), *where],
        ["backup", str(backup), "--no-encryption", *where],
        ["map-port", "9082=10264"],
    ]
    with disk.full():
        for _ in range(30):  # the audit log has part of a page left
            with Visit(cloud) as visit:
                visit.works()
        for words in commands:
            refused = own.try_ctl(*words)
            assert refused.returncode != 0, words
            assert NO_ROOM in refused.stderr, (words, refused.stderr)
            assert len(refused.stderr.strip().splitlines()) == 1, refused.stderr
        refused = own.join(two, [*line, "--force"])
        assert refused.returncode != 0
        assert "the token stays good" in refused.stderr, refused.stderr
        assert contents(own.state) == before
        assert not backup.exists()
        own.until(lambda: said(own, "server", "audit log", NO_ROOM.lower()), "server")
        own.kill("server")
        own.start_server()
        own.wait_ready("edge-1")
        with Visit(cloud) as visit:
            visit.works()
        assert contents(own.state) == before
    for words in commands[3:]:
        own.ctl(*words)
    assert own.join(two, [*line, "--force"]).returncode == 0

    def spoilt() -> list[str]:
        return [each for each in audit.read_text().splitlines() if not each.endswith("}")]

    # What the killed server could not write is lost, and with it the end of a line.
    kept = len(audit.read_text().splitlines())
    with Visit(cloud) as visit:
        visit.works()
    own.until(lambda: len(audit.read_text().splitlines()) > kept, "server")
    assert len(spoilt()) <= 1
    json.loads(audit.read_text().splitlines()[-1])
    assert len(said(own, "server", "audit log", NO_ROOM.lower())) <= 2  # one of each process
    assert "Traceback" not in own.log("server")
