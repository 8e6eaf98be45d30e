"""The Unix socket for CONNECT: the kernel says who comes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from tests.folders import let_others_in
from tunnel_daemon.program import ProgramError
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.frontends.connect_socket import ConnectSocket

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(int(sys.argv[2]))
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sys.stdout.write(sock.recv(100).decode())
"""


class Greeter:
    """Stands where the frontend does."""

    async def serve_local(self, stream: trio.SocketStream, uid: int) -> None:
        async with stream:
            await stream.send_all(f"hello {uid}".encode())

    async def refuse_local(self, stream: trio.SocketStream, uid: int, why: str) -> None:
        async with stream:
            await stream.send_all(f"{uid}: {why}".encode())


async def as_user(path: Path, uid: int) -> tuple[int, str]:
    done = await trio.run_process(
        [sys.executable, "-c", CLIENT, str(path), str(uid)],
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stdout.decode()


async def test_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "connect.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(ConnectSocket(Greeter(), SocketUsers()).serve, path)  # type: ignore[arg-type]
        assert path.stat().st_mode & 0o777 == 0o600
        async with await trio.open_unix_socket(str(path)) as stream:
            assert await stream.receive_some() == f"hello {os.geteuid()}".encode()
        nursery.cancel_scope.cancel()
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
async def test_other_users_only_if_named(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    path = tmp_path / "connect.sock"
    users = SocketUsers([4711])
    made = ConnectSocket(Greeter(), users)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(made.serve, path)
        assert await as_user(path, 4711) == (0, "hello 4711")
        refused = "4712: user 4712 may not use connect-socket: see connect-uids"
        assert await as_user(path, 4712) == (0, refused)
        users.change([4712])
        assert (await as_user(path, 4711))[1].startswith("4711: user 4711 may not")
        assert await as_user(path, 4712) == (0, "hello 4712")
        users.change([])
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await as_user(path, 4712))[0] == 1
        users.change([4712])
        assert await as_user(path, 4712) == (0, "hello 4712")
        nursery.cancel_scope.cancel()


async def test_a_place_that_cannot_be_had(tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a file")
    with pytest.raises(ProgramError, match="set another connect-socket"):
        await ConnectSocket(Greeter(), SocketUsers()).serve(path)  # type: ignore[arg-type]
