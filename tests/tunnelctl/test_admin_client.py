"""Asking a server that is there, is not, or is something else."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tunnelctl import admin_client
from tunnelctl.admin_client import DEFAULT_SOCKET, ask
from tunnelctl.errors import CommandError, NotReachableError, RefusedError


def test_the_default_is_the_servers() -> None:
    from tunnel_server.config import ServerConfig

    assert ServerConfig().admin_socket == DEFAULT_SOCKET


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(NotReachableError, match="start tunnel-server, or name its admin-socket"):
        ask(tmp_path / "none.sock", "GET", "/")
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    with pytest.raises(NotReachableError, match=r"no server listens at .*stale\.sock"):
        ask(stale, "GET", "/")
    with pytest.raises(NotReachableError, match="is it the socket of a tunnel-server"):
        ask(tmp_path / ("x" * 200), "GET", "/")


@pytest.fixture
def impostor(tmp_path: Path):
    """A socket whose one connection is answered with what the test appends to the list."""
    path = tmp_path / "impostor.sock"
    answers: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()

        def serve() -> None:
            connection, _ = sock.accept()
            with connection:
                connection.recv(65536)
                if answers:
                    connection.sendall(answers[0])
                else:
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, answers
        thread.join()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (b"SSH-2.0-x\r\n", NotReachableError, "is it the socket of a tunnel-server"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", CommandError, "the answer is no JSON"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", CommandError, "the answer is no JSON"),
        (b'HTTP/1.1 403 X\r\ncontent-length: 13\r\n\r\n{"error":"no"}', CommandError, "no JSON"),
        (b'HTTP/1.1 409 X\r\ncontent-length: 14\r\n\r\n{"error":"no"}', RefusedError, "^no$"),
        (
            b'HTTP/1.1 500 X\r\ncontent-length: 14\r\n\r\n{"error":"no"}',
            CommandError,
            "^the server failed: no$",
        ),
    ],
)
def test_odd_answers(impostor, answer: bytes, error: type[CommandError], message: str) -> None:
    path, answers = impostor
    answers.append(answer)
    with pytest.raises(CommandError, match=message) as caught:
        ask(path, "GET", "/")
    assert type(caught.value) is error


@pytest.mark.parametrize("answer", [b"", b'HTTP/1.1 403 X\r\ncontent-length: 14\r\n\r\n{"error":"no"}'])
def test_a_server_that_does_not_wait_for_the_question(tmp_path: Path, answer: bytes, monkeypatch) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def connect(self: admin_client._UnixConnection) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(str(path))
            with listener.accept()[0] as accepted:
                accepted.sendall(answer)

        monkeypatch.setattr(admin_client._UnixConnection, "connect", connect)
        error, text = (
            (RefusedError, "^no$") if answer else (NotReachableError, "was closed without an answer")
        )
        with pytest.raises(error, match=text):
            ask(path, "GET", "/")


def test_a_server_that_does_not_answer(impostor, monkeypatch) -> None:
    monkeypatch.setattr(admin_client, "TIMEOUT", 0.05)
    with pytest.raises(NotReachableError, match="gave no answer in"):
        ask(impostor[0], "GET", "/")


ASK = """
import os, sys
os.setuid(54321)
from pathlib import Path
from tunnelctl.cli import main
sys.exit(main(["nodes", "--admin-socket", sys.argv[1]]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user, which takes root")
def test_no_permission_is_exit_4(tmp_path: Path) -> None:
    program = "import shutil, tunnelctl.cli, tunnelctl.nodes\n" + ASK  # imported before the user changes
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "admin.sock"))
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "admin.sock")],
            capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
    assert done.returncode == 4
    assert done.stderr.endswith("permission denied; run it as root, or add your uid to admin-uids\n")
    assert len(done.stderr.splitlines()) == 1
