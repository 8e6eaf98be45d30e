"""The admin API over its real socket."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from tunnel_daemon.program import ProgramError
from tunnel_server.admin.api import AdminSources
from tunnel_server.admin.server import serve_admin
from tunnel_server.admin.unix_socket import SocketUsers
from tunnel_server.admin.views import NodeView


class NoMappings:
    def add(self, port: int, listener_port: int) -> None:
        raise ValueError("no")

    def remove(self, port: int) -> None:
        raise ValueError("no")


async def nothing() -> None:
    pass


def broken():
    raise RuntimeError("defect")


SOURCES = AdminSources(
    nodes=lambda: [NodeView(name="edge-1")], status=broken, mappings=NoMappings(),
    mapping_views=list, changed=nothing, default_listener_port=10264,
)  # fmt: skip


async def curl(path: Path, target: str) -> tuple[int, dict[str, object]]:
    done = await trio.run_process(
        ["curl", "-sS", "-m", "10", "--unix-socket", path, "-w", "\n%{http_code}", f"http://admin{target}"],
        capture_stdout=True, stderr=subprocess.STDOUT,
    )  # fmt: skip
    body, _, status = done.stdout.decode().rpartition("\n")
    return int(status), json.loads(body)


async def test_curl_is_answered_and_the_socket_goes_with_the_server(tmp_path: Path, caplog) -> None:
    path = tmp_path / "run" / "admin.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_admin, path, SOURCES)
        status, body = await curl(path, "/v1/nodes")
        assert (status, body["nodes"][0]["name"]) == (200, "edge-1")
        assert (await curl(path, "/v2"))[0] == 404
        assert await curl(path, "/v1/status") == (500, {"error": "internal error; the cause is in the log"})
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as second:
                await second.start(serve_admin, path, SOURCES)
        assert caught.group_contains(ProgramError, match="another tunnel-server")
        nursery.cancel_scope.cancel()
    assert not path.exists()
    assert "RuntimeError: defect" in caplog.text


ASK = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
try:
    sock.connect(sys.argv[1])
except PermissionError:
    print("EACCES")
else:
    sock.sendall(b"GET /v1/nodes HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(sock.recv(100).split()[1].decode())
"""
IDLE = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
socks = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[3]))]
for sock in socks:
    sock.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as other users, which takes root")
async def test_users_are_told_apart(tmp_path_factory) -> None:
    directory = Path("/tmp") / f"edge-tunnel-test-{os.getpid()}"  # pytest's own directories are private
    directory.mkdir(mode=0o755)
    try:
        path = directory / "admin.sock"

        async def ask(uid: int) -> str:
            done = await trio.run_process(
                [sys.executable, "-c", ASK, str(path), str(uid)], capture_stdout=True
            )
            return done.stdout.decode().strip()

        async def ask_beside_idle(uid: int) -> str:
            idle = await trio.lowlevel.open_process(
                [sys.executable, "-c", IDLE, str(path), str(uid), "34"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
            assert idle.stdin is not None
            assert idle.stdout is not None
            with trio.fail_after(5):
                assert await idle.stdout.receive_some() == b"ready\n"
                answer = await ask(0)
            await idle.stdin.aclose()
            await idle.wait()
            await idle.stdout.aclose()
            return answer

        async with trio.open_nursery() as nursery:
            await nursery.start(serve_admin, path, SOURCES)
            assert await ask(0) == "200"
            assert await ask(54321) == "EACCES"
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: serve_admin(
                path, SOURCES, users=SocketUsers([54321]), task_status=task_status
            ))  # fmt: skip
            assert await ask(54321) == "200"
            assert await ask(54322) == "403"
            for uid in (54321, 54322):
                assert await ask_beside_idle(uid) == "200"
            nursery.cancel_scope.cancel()
    finally:
        for each in directory.iterdir():
            each.unlink()
        directory.rmdir()
