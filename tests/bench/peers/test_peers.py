"""Every peer that is on this machine, run for real: what it carries, and what it leaves behind."""

import hashlib
import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from bench.peers import binaries, bore
from bench.peers.peer import Absent, Peer, PeerFailed, Stage
from bench.peers.programs import carries
from bench.peers.registry import peers
from bench.peers.tunnel import Tunnel

# Two turns of what sits in sockets, windows and buffers on the way.
SIZE = 8 * 1024 * 1024

ALL = [pytest.param(peer, id=peer.name) for peer in peers()]
INSTALLED = [pytest.param(peer, id=peer.name) for peer in peers() if not isinstance(peer.available(), Absent)]
# Those whose programs are looked for on PATH, by what they need there.
PROGRAMS = {
    "ssh -R": ("ssh", "sshd", "ssh-keygen"),
    "stunnel pair": ("stunnel",),
    "haproxy pair": ("haproxy",),
    "rathole (noise)": ("rathole",),
    "rathole (TLS)": ("rathole",),
    "frp": ("frps", "frpc"),
    "chisel": ("chisel",),
    "konnectivity": ("proxy-server", "proxy-agent"),
    "bore": ("bore",),
}
FOREIGN = [pytest.param(peer, id=peer.name) for peer in peers() if peer.name in PROGRAMS]
LOSES_AFTER_HALF_CLOSE = {  # and that is not ours to fix
    "stunnel pair",  # now and then: bench/peers/stunnel.py
    *("frp", "chisel", "konnectivity"),  # whatever is still under way: they take one end for both
}
ONE_AGENT = {"direct", "blocking relay", "stunnel pair", "haproxy pair"}
OURS = {"direct", "blocking relay", *(peer.name for peer in peers() if isinstance(peer, Tunnel))}
INSTALLED_FOREIGN = [each for each in INSTALLED if each.id not in OURS]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def echoed(entrance: tuple[str, int], data: bytes, *, half_close: bool = True) -> bytes:
    """What comes back of `data`; with `half_close`, we end our direction before all of it is there."""
    with socket.create_connection(entrance, timeout=10) as caller:

        def send() -> None:
            caller.sendall(b"e" + data)
            if half_close:
                caller.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = bytearray()
        while (half_close or len(received) < len(data)) and (part := caller.recv(1 << 18)):
            received += part
        sender.join()
        return bytes(received)


@pytest.mark.parametrize("peer", INSTALLED)
def test_carries_every_byte_both_ways_then_leaves_nothing(peer: Peer, stage: Stage) -> None:
    data = os.urandom(SIZE)
    with peer.start(stage) as running:
        server, agent = running.processes["server"], running.processes["agent"]
        if peer.name != "direct":
            assert server
            assert agent
        assert not set(server) & set(agent)
        back = echoed(running.entrance, data, half_close=peer.name not in LOSES_AFTER_HALF_CLOSE)
        assert hashlib.sha256(back).digest() == hashlib.sha256(data).digest()
    assert [pid for pid in (*server, *agent) if alive(pid)] == []
    assert left_in(stage) == []


def reached(entrance: tuple[str, int]) -> bool:
    try:
        return carries(entrance)
    except OSError:
        return False


@pytest.mark.parametrize("peer", [each for each in INSTALLED if each.id not in ONE_AGENT])
def test_each_further_agent_has_an_entrance_of_its_own_and_ends_with_its_block(
    peer: Peer, stage: Stage
) -> None:
    def agents() -> set[int]:
        return set(running.processes["agent"])

    with peer.start(stage) as running:
        assert running.takes_further_agents
        first = agents()
        with running.further_agents(1) as (entrance,):
            two = agents()
            assert two > first
            with running.further_agents(1) as (killed,):
                for pid in agents() - two:
                    os.kill(pid, signal.SIGKILL)
                deadline = time.monotonic() + 20
                while reached(killed):
                    assert time.monotonic() < deadline, "another agent answers for the one that is gone"
                assert reached(entrance)
                assert reached(running.entrance)
        assert agents() == first
        assert [pid for pid in two - first if alive(pid)] == []
        assert reached(running.entrance)
        with running.further_agents(1):  # those that have ended are no failure of a later one's
            assert agents() > first
    assert left_in(stage) == []


@pytest.mark.parametrize("peer", [each for each in INSTALLED if each.id in ONE_AGENT])
def test_where_a_server_has_one_agent_there_are_no_further_ones_and_its_line_says_so(
    peer: Peer, stage: Stage
) -> None:
    with peer.start(stage) as running:
        assert not running.takes_further_agents
        with pytest.raises(PeerFailed, match="one agent only"), running.further_agents(1):
            pass
    assert "no further agents" in peer.one_line or "no agents" in peer.one_line


@pytest.mark.parametrize("peer", INSTALLED_FOREIGN)
def test_a_taken_port_is_said_by_the_program_itself(peer: Peer, stage: Stage) -> None:
    host, port = stage.wan_server
    taken = bore.CONTROL_PORT if peer.name == "bore" else port
    with socket.create_server((host, taken)), pytest.raises(PeerFailed, match=r"(?i)in use|bind"):
        peer.start(stage)
    assert left_in(stage) == []


@pytest.mark.parametrize("peer", FOREIGN)
def test_without_its_programs_it_is_absent_and_says_how_to_get_them(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(binaries, "ADMINISTRATORS_FOLDERS", ())
    absent = peer.available()
    assert isinstance(absent, Absent)
    assert absent.reason.startswith("not installed: ")


@pytest.mark.parametrize("peer", FOREIGN)
def test_a_program_that_ends_at_once_is_quoted(
    peer: Peer, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in PROGRAMS[peer.name]:
        (tmp_path / program).write_text("#!/bin/sh\necho something is wrong here\nexit 3\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(PeerFailed, match="something is wrong here"):
        peer.start(stage)
    assert left_in(stage) == []


def left_in(stage: Stage) -> list[str]:
    """The command lines of the processes whose folder is the stage's."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == stage.scratch:
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            pass
    return found
