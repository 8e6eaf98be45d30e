"""`tunnelctl port-forward` as a process: what it prints, and how it ends."""

import signal
import socket
import subprocess
import sys

import pytest

from tests.tunnelctl.connect_server import OK, serving, unix_listener


def start(*words) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tunnelctl.cli", "port-forward", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_cleanly_with_a_signal_and_resets_what_is_open(number, code, tmp_path) -> None:
    def behave(caller, _target) -> None:
        caller.sendall(OK + b"half")
        caller.recv(1)

    with (
        serving(unix_listener(tmp_path / "s"), behave),
        start("edge-1", ":80", ":443", "--connect-socket", tmp_path / "s") as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline().split() for _ in range(2)]
        assert [(words[:2], words[-2:]) for words in lines] == [
            (["Forwarding", "from"], ["->", "80"]), (["Forwarding", "from"], ["->", "443"])
        ]  # fmt: skip
        host, _, port = lines[0][2].rpartition(":")
        with socket.create_connection((host, int(port)), 10) as caller:
            assert caller.recv(100) == b"half"
            assert process.stdout.readline() == f"Handling connection for {port}\n"
            process.send_signal(number)
            with pytest.raises(ConnectionResetError):
                caller.recv(100)
        assert process.wait(10) == code
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["edge-1", "80:"], 2, "'80:' is no LOCAL:REMOTE"),
        (["edge-1"], 2, "required: LOCAL:REMOTE"),
        (["edge-1", ":80", "--address", "eth0"], 2, "'eth0' is not an IP address"),
        (["edge-1", ":80", "--server", "a"], 2, "--server HOST:PORT and --identity DIR go together"),
        (["edge-1", ":80", "--connect-socket", "/nonexistent/s"], 3, "no server listens at /nonexistent/s"),
    ],
)
def test_what_cannot_be_is_one_line(words, code, message) -> None:
    with start(*words) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1
