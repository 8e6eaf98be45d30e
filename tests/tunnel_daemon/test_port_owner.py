"""Who has a port: real sockets of real processes, and what is said where they cannot be seen."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tunnel_daemon.port_owner import why_taken

if TYPE_CHECKING:
    from collections.abc import Iterator

LISTEN = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
sock = socket.create_server((sys.argv[1], 0), family=family)
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""
ASK = """
import sys
from tunnel_daemon.port_owner import why_taken
print(why_taken("127.0.0.1", int(sys.argv[1]), "port"))
"""


@contextmanager
def listening(address: str) -> Iterator[tuple[int, int]]:
    """Another process's port, and which process that is."""
    command = [sys.executable, "-c", LISTEN, address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), process.pid
        process.kill()


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.2"),
        ("127.0.0.1", "0.0.0.0"),
        ("::1", "::1"),
        ("::1", "::"),
    ],
)
def test_a_process_is_named(theirs: str, ours: str) -> None:
    with listening(theirs) as (port, process):
        said = why_taken(ours, port, "tunnel-port")
    assert said == (
        f"another program has the port, {Path(sys.executable).name} "
        f"(process {process}); stop it, or set another tunnel-port"
    )


def test_this_process_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        said = why_taken("127.0.0.1", sock.getsockname()[1], "https-port")
    assert said == "this program has the port already, for another setting; set another https-port"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("127.0.0.1", "127.0.0.3"), ("::1", "0.0.0.0"), ("0.0.0.0", "::1"), ("0.0.0.0", "::")],
)
def test_one_in_nobodys_way_is_not_named(theirs: str, ours: str) -> None:
    with listening(theirs) as (port, _):
        assert why_taken(ours, port, "p") == "another program has the port; stop it, or set another p"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_one_that_cannot_be_seen_is_told_by_its_user() -> None:
    """As in a pod: the host's network, and processes of its own."""
    apart = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with listening("0.0.0.0") as (port, _):
        said = subprocess.run(
            [*apart, sys.executable, "-c", ASK, str(port)], capture_output=True, text=True, check=True
        ).stdout
    outside = f"`ss -ltnp 'sport = {port}'`, as root on this host, names it"
    assert said == (f"another program has the port, one of user 0: {outside}; stop it, or set another port\n")
