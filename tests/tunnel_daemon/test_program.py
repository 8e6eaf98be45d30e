"""Failures to lines and exit codes."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys

import pytest

from tunnel_daemon.program import ProgramError, run_program
from tunnel_daemon.settings import SettingsError


class KnownError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (SettingsError(["c.toml:1: a", "c.toml:2: b"]), 2, ["c.toml:1: a", "c.toml:2: b"]),
        (ProgramError("no room", 7), 7, ["no room"]),
        (KnownError("bad\nnews"), 1, ["bad news"]),
        (OSError(errno.EACCES, "Permission denied", "/x"), 1, ["/x: Permission denied"]),
        (
            ExceptionGroup("g", [ProgramError("a"), ExceptionGroup("h", [ProgramError(x) for x in "ba"])]),
            1,
            ["a", "b"],
        ),
        (BaseExceptionGroup("g", [KeyboardInterrupt(), ValueError()]), 130, []),
        (KeyboardInterrupt(), 130, []),
        (SystemExit(3), 3, []),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told_in_lines(error: BaseException, code: int, lines: list[str], capsys) -> None:
    async def main() -> None:
        raise error

    assert run_program("prog", main, known=(KnownError,)) == code
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [f"prog: {line}" for line in lines]
    assert captured.out == ""


def test_a_defect_is_one_line_with_its_place(capsys) -> None:
    async def main() -> None:
        raise RuntimeError("un\nexpected")

    assert run_program("prog", main) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("prog: internal error: RuntimeError: un expected (")
    assert "test_program:" in line


def test_success_is_quiet(capsys) -> None:
    async def main() -> None:
        pass

    assert run_program("prog", main) == 0
    assert capsys.readouterr() == ("", "")


def test_a_taken_port_costs_one_line_in_a_real_process() -> None:
    program = (
        "import sys, trio\n"
        "from tunnel_daemon.listeners import open_tcp_listeners\n"
        "from tunnel_daemon.program import run_program\n"
        "async def main():\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        await open_tcp_listeners(['127.0.0.1'], int(sys.argv[1]), setting='meta-port')\n"
        "sys.exit(run_program('tunnel-server', main))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = subprocess.run(
            [sys.executable, "-c", program, str(taken.getsockname()[1])],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("tunnel-server: can't listen on 127.0.0.1:")
    assert ": another program has the port, " in line
    assert line.endswith(f" (process {os.getpid()}); stop it, or set another meta-port")
