"""The command line's entrance: which module does what, and failures in one line with an exit code.

Only the module of the command that was asked for is imported, so that each stays quick.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from typing import NoReturn

from tunnelctl.errors import FAILED, OK, WRONG_USE, CommandError
from tunnelctl.standard_streams import complete_standard_streams, silence, tell

INTERRUPTED = 130

COMMANDS = {
    "init": ("tunnelctl.init", "make the authority and the server's certificate"),
    "token": ("tunnelctl.token", "admit a new edge: make, list and revoke join tokens"),
    "caller": ("tunnelctl.caller", "make, renew and list certificates for callers"),
    "revoke": ("tunnelctl.revoke", "let a node, a caller or one certificate in no longer"),
    "ca": ("tunnelctl.ca", "roll the authority over to a new root"),
    "backup": ("tunnelctl.backup", "write authority and state to one file"),
    "restore": ("tunnelctl.restore", "make a state directory from a backup"),
    "map-port": ("tunnelctl.map_port", "capture a port of the edges, at once and for good"),
    "port-forward": ("tunnelctl.port_forward", "open ports here that lead to ports of an edge"),
    "connect": ("tunnelctl.connect", "join standard input and output to a port of an edge"),
    "doctor": ("tunnelctl.doctor", "walk the path to an edge, and name what fails and its remedy"),
    "nodes": ("tunnelctl.nodes", "list the edges, and how each is doing; forget one"),
    "status": ("tunnelctl.status", "show how the server is doing, and which calls failed lately"),
    "install": ("tunnelctl.install", "put server and agents into a Kubernetes cluster"),
    "uninstall": ("tunnelctl.uninstall", "take out of a Kubernetes cluster what install made"),
    "cleanup": (
        "tunnelctl.cleanup",
        "take away what a killed server left in this host's nftables and routes",
    ),
    "demo": (
        "tunnelctl.demo",
        "an edge behind NAT answers at its own address, here and now, on this machine alone",
    ),
}

EPILOG = """\
exit codes:
  0  done
  1  failed
  2  wrong use: the command line, or a file it names
  3  the server can't be reached
  4  refused, by the server or by the state of things
"""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser for which wrong use costs one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where to read on; exits."""
        self.exit(WRONG_USE, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    complete_standard_streams()
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # --help ends with SystemExit, and its reader may have left too
    except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:  # noqa: BLE001 - told in one line
        return _failed(_first(error))


def build_parser(asked: str | None) -> argparse.ArgumentParser:
    """Return the parser with the asked command's options; of the others only names and help."""
    parser = Parser(
        prog="tunnelctl",
        description="Set up and look after a tunnel server. Each command has its own --help.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    subparsers = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, (module, line) in COMMANDS.items():
        if name == asked:
            importlib.import_module(module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=line)
    return parser


def _run(arguments: list[str]) -> int:
    asked = next((each for each in arguments if not each.startswith("-")), None)
    parser = build_parser(asked)
    if asked is not None and asked not in COMMANDS:
        close = difflib.get_close_matches(asked, COMMANDS, n=1)
        parser.error(f"no command {asked!r}" + (f"; did you mean {close[0]}?" if close else ""))
    parsed = parser.parse_args(arguments)
    if asked is None:
        parser.error(f"name a command: {', '.join(COMMANDS)}")
    code: int | None = parsed.run(parsed)
    return code or OK


class _Version(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, **options: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=options["help"])

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from tunnel_wire.build import version_line

        print(version_line("tunnelctl"))
        parser.exit()


def _first(error: BaseException) -> BaseException:
    """What a group of nurseries raised; a Ctrl-C before all else."""
    while isinstance(error, BaseExceptionGroup):
        error = (error.subgroup(KeyboardInterrupt) or error).exceptions[0]
    return error


def _failed(error: BaseException) -> int:
    """Say it in one line on stderr, whatever it is; the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has had enough.
        silence()
        return OK
    if isinstance(error, CommandError):
        code, message = error.exit_code, str(error)
    elif isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        remedy = "; run it as root" if isinstance(error, PermissionError) else ""
        code, message = FAILED, f"{place}{error.strerror or error}{remedy}"
    else:  # a defect of ours, and still no traceback for its user
        code, message = FAILED, f"internal error: {type(error).__name__}: {error} ({_place(error)})"
    try:
        sys.stdout.flush()
    except OSError:
        silence()
    tell(f"tunnelctl: {' '.join(message.split())}", error=True)
    return code


def _place(error: BaseException) -> str:
    traceback = error.__traceback__
    while traceback and traceback.tb_next:
        traceback = traceback.tb_next
    return (
        f"{traceback.tb_frame.f_globals.get('__name__')}:{traceback.tb_lineno}"
        if traceback
        else "unknown place"
    )


if __name__ == "__main__":
    sys.exit(main())
