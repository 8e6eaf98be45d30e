"""The entrance: commands, exit codes, and what is imported for them."""

import argparse
import importlib
import subprocess
import sys
import types

import pytest

from tunnel_wire.build import version_line
from tunnelctl import cli
from tunnelctl.cli import COMMANDS, build_parser, main
from tunnelctl.errors import CommandError, NotReachableError


def run(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tunnelctl.cli", *argv],
        capture_output=True, text=True, check=False, timeout=30, **options,
    )  # fmt: skip


def test_help_lists_every_command_and_the_exit_codes() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name, (_, line) in COMMANDS.items():
        assert f"    {name}" in done.stdout
        assert line.split()[0] in done.stdout
    assert "3  the server can't be reached" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_its_module_and_help(name: str) -> None:
    assert importlib.util.find_spec(COMMANDS[name][0])
    parser = build_parser(name)
    commands = next(each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    assert list(commands.choices) == list(COMMANDS)
    assert len(commands.choices[name].format_help().splitlines()) > 5


def test_only_the_asked_module_is_imported() -> None:
    program = (
        "import sys; from tunnelctl.cli import main\ntry: main(sys.argv[1:])\nfinally: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "nodes", "--admin-socket", "/nonexistent/admin.sock"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "tunnelctl.nodes" in loaded
    assert not loaded & {
        "tunnelctl.init",
        "tunnelctl.token",
        "tunnelctl.status",
        "trio",
        "cryptography",
        "pyroute2",
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "tunnelctl: name a command: init, token, "),
        (("nodez",), "tunnelctl: no command 'nodez'; did you mean nodes?; see tunnelctl --help"),
        (("zzz",), "tunnelctl: no command 'zzz'; see tunnelctl --help"),
        (("--wrong",), "tunnelctl: "),
        (("nodes", "--wrong"), "tunnelctl: unrecognized arguments: --wrong"),
        (("nodes", "--admin-socket"), "tunnelctl nodes: argument --admin-socket: expected one argument"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(argv: tuple[str, ...], message: str) -> None:
    done = run(*argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_no_server_is_exit_3() -> None:
    done = run("status", "--admin-socket", "/nonexistent/admin.sock")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        "tunnelctl: no server listens at /nonexistent/admin.sock: start tunnel-server"
    )


def test_version() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == version_line("tunnelctl") + "\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m tunnelctl.cli --help | true"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CommandError("a\nb"), 1, "tunnelctl: a b"),
        (NotReachableError("gone"), 3, "tunnelctl: gone"),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "tunnelctl: /x: Permission denied; run it as root",
        ),
        (OSError(28, "No space left on device"), 1, "tunnelctl: No space left on device"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("defect"), 1, "tunnelctl: internal error: RuntimeError: defect ("),
    ],
)
def test_failures_are_one_line(error: BaseException, code: int, line: str, monkeypatch, capsys) -> None:
    def add_parser(subparsers) -> None:
        def fail(_args: argparse.Namespace) -> int:
            print("partial")
            raise error

        subparsers.add_parser("fail").set_defaults(run=fail)

    module = types.ModuleType("failing")
    module.add_parser = add_parser  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing", module)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("failing", "fails"))
    assert main(["fail"]) == code
    out, err = capsys.readouterr()
    assert out == "partial\n"
    assert err.startswith(line)
    assert len(err.splitlines()) == (1 if line else 0)
