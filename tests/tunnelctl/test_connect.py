"""`tunnelctl connect` as ssh runs it: a process with two pipes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tunnelctl.connect_server import OK, Pki, echo, serving, unix_listener
from tunnel_wire.sockets import close_with_reset


def connect(*words: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tunnelctl.cli", "connect", *words],
        input=stdin, capture_output=True, check=False, timeout=30,
    )  # fmt: skip


def test_nothing_but_the_payload_comes_out_and_the_end_of_input_is_passed_on(tmp_path) -> None:
    payload = bytes(range(256)) * 8192
    with serving(unix_listener(tmp_path / "s"), echo):
        done = connect("edge-1", "22", "--connect-socket", tmp_path / "s", stdin=payload)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == payload + b" bye"


def test_from_anywhere_with_a_certificate(tmp_path) -> None:
    pki = Pki(tmp_path)
    identity = pki.identity(tmp_path / "me")
    with socket.create_server(("127.0.0.1", 0)) as listener, serving(listener, echo, pki.server()):
        server = f"127.0.0.1:{listener.getsockname()[1]}"
        done = connect("edge-1", "22", "--server", server, "--identity", identity, stdin=b"hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello bye", b"")


def test_a_reset_is_no_success(tmp_path) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(OK + b"half")
        caller.recv(1)
        close_with_reset(caller)

    with serving(unix_listener(tmp_path / "s"), behave):
        program = [sys.executable, "-m", "tunnelctl.cli", "connect", "edge-1", "22"]
        with subprocess.Popen(
            [*program, "--connect-socket", tmp_path / "s"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(4) == b"half"
            process.stdin.write(b"go")  # and it stays open, as ssh's does
            process.stdin.flush()
            assert process.stdout.read() == b""
            assert process.stderr.read().startswith(b"tunnelctl: edge-1:22: ")
            assert process.wait(10) == 1


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (b"403 not-allowed: port 22", 4, b"tunnelctl: edge-1:22: not-allowed: port 22\n"),
        (b"502 refused: nothing listens", 1, b"tunnelctl: edge-1:22: refused: nothing listens\n"),
    ],
)
def test_a_refusal(answer, code, message, tmp_path) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(b"HTTP/1.1 " + answer + b"\r\ncontent-length: 0\r\n\r\n")

    with serving(unix_listener(tmp_path / "s"), behave):
        done = connect("edge-1", "22", "--connect-socket", tmp_path / "s")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", message)


def test_wrong_use_and_no_server(tmp_path) -> None:
    assert connect("edge-1", "ssh").returncode == 2
    assert connect("edge 1", "22").returncode == 2
    done = connect("edge-1", "22", "--connect-socket", tmp_path / "s")
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.startswith(b"tunnelctl: no server listens at ")
    assert done.stderr.count(b"\n") == 1
