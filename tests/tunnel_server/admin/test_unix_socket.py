"""The socket: private, replaced when stale, never stolen."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tunnel_daemon import inheritance
from tunnel_daemon.program import ProgramError
from tunnel_server.admin.unix_socket import Credentials, SocketUsers, admin_listener, peer_credentials


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_it_is_private_whatever_the_umask_and_removed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "run" / "edge" / "admin.sock"
    before = os.umask(0)
    try:
        with admin_listener(path):
            assert mode(path) == 0o600
            assert mode(path.parent) == 0o711
            assert mode(path.with_name("admin.sock.lock")) == 0o600
    finally:
        os.umask(before)
    assert not path.exists()


async def test_others_may_connect_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "run" / "admin.sock"
    before = os.umask(0o077)
    try:
        with admin_listener(path, SocketUsers([4711])):
            assert mode(path) == 0o666
    finally:
        os.umask(before)


async def test_one_that_is_borrowed_is_as_its_owner_has_it_until_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with admin_listener(path) as owner:
        inheritance.borrow(inheritance.Given(socket.socket(fileno=os.dup(owner.socket.fileno())), os.dup(0)))
        with admin_listener(path, SocketUsers([4711])):
            assert mode(path) == 0o600
            inheritance.own()
            assert mode(path) == 0o666


async def test_a_second_server_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with admin_listener(path):
        with (
            pytest.raises(
                ProgramError, match=r"another tunnel-server is running with admin-socket .*admin\.sock"
            ),
            admin_listener(path),
        ):
            pass
        await (await trio.open_unix_socket(path)).aclose()
    with admin_listener(path):
        pass


async def test_the_socket_of_a_killed_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    program = (
        "import pathlib, sys, trio\n"
        "from tunnel_server.admin.unix_socket import admin_listener\n"
        "async def main():\n"
        "    with admin_listener(pathlib.Path(sys.argv[1])):\n"
        "        print('ready', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        with pytest.raises(ProgramError, match="another tunnel-server"), admin_listener(path):
            pass
        other.send_signal(signal.SIGKILL)
    assert path.is_socket()
    with admin_listener(path):
        await (await trio.open_unix_socket(path)).aclose()


@pytest.mark.parametrize("kind", ["file", "directory", "parent is a file", "too long"])
async def test_what_is_in_the_way_is_named_and_kept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "parent is a file":
        path.write_text("precious")
        path /= "admin.sock"
    else:
        path = tmp_path / ("x" * 120)
    with pytest.raises(ProgramError) as caught, admin_listener(path):
        pass
    assert str(path) in str(caught.value)
    assert "admin-socket" in str(caught.value)
    if kind == "file":
        assert path.read_text() == "precious"


async def test_the_kernel_says_who_connects(tmp_path: Path) -> None:
    with admin_listener(tmp_path / "admin.sock") as listener:
        client = await trio.open_unix_socket(tmp_path / "admin.sock")
        server = await listener.accept()
        assert peer_credentials(server) == Credentials(os.getpid(), os.geteuid(), os.getegid())
        await client.aclose()
        await server.aclose()


async def test_no_credentials_is_an_oserror(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    await stream.aclose()
    theirs.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_credentials(stream)
