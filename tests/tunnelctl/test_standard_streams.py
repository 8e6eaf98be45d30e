"""tunnelctl with standard streams that are closed, full or without a reader: one line at most."""

import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.tunnelctl.connect_server import OK, echo, serving, unix_listener

CTL = f"{sys.executable} -m tunnelctl.cli"


def sh(line: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=30, **options
    )


@pytest.fixture
def server(tmp_path):
    with serving(unix_listener(tmp_path / "s"), echo):
        yield f"--connect-socket {tmp_path / 's'}"


@pytest.mark.parametrize(
    ("redirects", "said"),
    [
        ("<&-", "standard input: bad file descriptor"),
        ("<<<hi >&-", "standard output: bad file descriptor"),
        ("<<<hi >/dev/full", "standard output: no space left on device"),
    ],
)
def test_connect_says_what_it_lacks(redirects: str, said: str, server: str) -> None:
    """A closed descriptor's number must not become the socket's: it would talk to itself."""
    done = sh(f"{CTL} connect edge-1 22 {server} {redirects}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"tunnelctl: edge-1:22: {said}\n"


def test_connect_without_standard_error(server: str) -> None:
    assert sh(f"{CTL} connect edge-1 22 {server} <<<hi 2>&-").stdout == "hi\n bye"
    done = sh(f"{CTL} connect edge-1 22 --connect-socket /nonexistent/s 2>&-")
    assert (done.returncode, done.stdout) == (3, ""), "an error is never taken for the port's bytes"


def test_a_command_whose_output_nobody_takes(server: str) -> None:
    for redirect, code in ((">&-", 1), (">/dev/full", 1), ("| true", 0)):
        done = sh(f"set -o pipefail; {CTL} --version {redirect}")
        assert done.returncode == code
        assert done.stderr.count("\n") == code
    assert sh(f"{CTL} nodes --wrong 2>&-").returncode == 2


@contextmanager
def port_forward(server: str):
    """The process, and the port that it took."""
    argv = f"{CTL} port-forward edge-1 :80 {server}".split()
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(argv, text=True, **streams) as process:
        try:
            yield process, int(process.stdout.readline().split()[2].rpartition(":")[2])
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130


def call(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as caller:
        caller.sendall(b"hi")
        caller.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: caller.recv(100), b""))


def test_port_forward_goes_on_when_nobody_reads_what_it_says(server: str) -> None:
    with port_forward(server) as (process, port):
        process.stdout.close()
        assert [call(port), call(port)] == [b"hi bye", b"hi bye"]
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""


def test_an_interrupt_ends_connect_without_a_word(tmp_path) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(OK + b"half")
        caller.recv(1)

    argv = f"{CTL} connect edge-1 22 --connect-socket {tmp_path / 's'}".split()
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (
        serving(unix_listener(tmp_path / "s"), behave),
        subprocess.Popen(argv, **streams) as process,
    ):
        assert process.stdout.read(4) == b"half"
        process.send_signal(signal.SIGINT)
        assert (process.wait(10), process.stderr.read()) == (130, b"")
