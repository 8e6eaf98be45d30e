"""Sockets that a process is given: by systemd, as sd_listen_fds(3) says, and by the process before it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tunnel_daemon import inheritance
from tunnel_daemon.descriptors import Acceptor
from tunnel_daemon.inheritance import Given
from tunnel_daemon.listeners import open_tcp_listeners

if TYPE_CHECKING:
    from pathlib import Path

# Listens where it is told to, and says to its first caller what is left of the variables.
_PROGRAM = """
import os, sys, trio
from tunnel_daemon import inheritance
from tunnel_daemon.listeners import open_tcp_listeners

async def main():
    inheritance.take_from_service_manager(os.environ)
    print([name for name in os.environ if name.startswith("LISTEN_")], flush=True)
    [listener] = await open_tcp_listeners(["127.0.0.1"], int(sys.argv[1]), setting="p")
    print(os.get_inheritable(listener.socket.fileno()), flush=True)
    print(inheritance.close_unclaimed(), flush=True)
    stream = await listener.accept()
    await stream.send_all(b"hello")

trio.run(main)
"""


@pytest.fixture
def listener() -> socket.socket:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def _run(listener: socket.socket, other: socket.socket, *, pid: str) -> subprocess.Popen[str]:
    port, descriptors = listener.getsockname()[1], (listener.fileno(), other.fileno())
    script = f'exec 3<&{descriptors[0]} 4<&{descriptors[1]}; LISTEN_PID={pid} LISTEN_FDS=2 exec "$@"'
    return subprocess.Popen(
        ["bash", "-c", f"LISTEN_FDNAMES=a:b; export LISTEN_FDNAMES; {script}", "-", sys.executable, "-c",
         _PROGRAM, str(port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=descriptors,
    )  # fmt: skip


def test_a_socket_of_systemd_is_listened_at(listener: socket.socket) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        # Before there is a program: it waits in the kernel.
        socket.create_connection(listener.getsockname()[:2], timeout=10) as caller,
        _run(listener, other, pid="$$") as program,
    ):
        out, errors = program.communicate(timeout=20)
        assert program.returncode == 0, errors
        unclaimed = f"127.0.0.1:{other.getsockname()[1]}"
        assert out.splitlines() == ["[]", "False", f"['{unclaimed}']"]
        assert caller.recv(5) == b"hello"


def test_variables_for_another_process_are_not_obeyed(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, _run(listener, other, pid="1") as program:
        out, errors = program.communicate(timeout=20)
    assert program.returncode == 1
    assert out.splitlines() == ["[]"]
    assert "another program has the port" in errors


def test_what_does_not_listen_is_left_alone() -> None:
    with socket.socket() as unconnected:
        assert inheritance.listening_socket(unconnected.fileno()) is None
        assert unconnected.fileno() >= 0
        unconnected.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    reader, writer = os.pipe()
    assert inheritance.listening_socket(reader) is None
    os.close(reader)
    os.close(writer)


async def test_a_place_is_known_however_it_is_written() -> None:
    for host in ("0.0.0.0", "::"):
        sock = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        port = sock.getsockname()[1]
        inheritance.give(Given(sock))
        assert inheritance.claim_tcp("127.0.0.1", port) is None
        assert inheritance.claim_tcp("localhost", port) is None
        [listener] = await open_tcp_listeners(["0:0:0:0:0:0:0:0" if ":" in host else host], port, setting="p")
        assert listener.socket.fileno() == sock.fileno()
        assert listener in dict(inheritance.listening())
        await listener.aclose()
        assert listener not in dict(inheritance.listening())


async def test_listeners_are_closed_but_for_some() -> None:
    [kept] = await open_tcp_listeners(["127.0.0.1"], 0, setting="kept")
    [closed] = await open_tcp_listeners(["127.0.0.1"], 0, setting="closed")
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await closed.accept()

        nursery.start_soon(accept)
        await trio.testing.wait_all_tasks_blocked()
        inheritance.close_listening(keep=("kept",))
    assert kept.socket.fileno() >= 0
    await kept.aclose()


def test_what_is_borrowed_is_ours_only_then(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        inheritance.borrow(Given(sock))
        given = inheritance.claim_unix(tmp_path / "s")
        assert given is not None
        assert not given.ours
        done: list[str] = []
        inheritance.once_ours(given, lambda: done.append("then"))
        assert not done
        inheritance.own()
        assert given.ours
        inheritance.once_ours(given, lambda: done.append("now"))
        assert done == ["then", "now"]
        assert inheritance.claim_unix(tmp_path / "s") is None


async def test_nobody_is_let_in_before_it_is_ours() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    place = sock.getsockname()[:2]
    inheritance.borrow(Given(sock))
    [listener] = await open_tcp_listeners(["127.0.0.1"], place[1], setting="p")
    accepted: list[object] = []

    async def accept() -> None:
        async with await Acceptor(listener, "a caller").accept() as stream:
            accepted.append(stream)

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        with socket.create_connection(place, timeout=10):
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not accepted
            inheritance.own()
            with trio.fail_after(5):
                while not accepted:
                    await trio.sleep(0.01)
