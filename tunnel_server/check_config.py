"""`tunnel-server check-config [FILE]`: whether a server would start with a file, or take it while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_daemon.program import EXIT_OK, EXIT_WRONG_USE
from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_flags import OneLineParser
from tunnel_daemon.toml_lines import KeyPath, key_lines
from tunnel_server.check_files import check_files
from tunnel_server.check_networks import check_networks
from tunnel_server.config import DEFAULT_CONFIG, load_config

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Check a configuration file without starting or changing anything. What is wrong with the file is a problem. An
entry of a port list that would not count, while the others do, is a warning; so are addresses of a node's
network that lead elsewhere, and what else would stop a server that starts on this host as this user: a state
directory without an authority, a key that cannot be read, a place where no socket or log can be made."""
_EPILOG = "Exit codes: 0 a server would take it, 2 it would not."


def main(prog: str, arguments: Sequence[str]) -> int:
    """Print problems and warnings, one a line, then "ok" if there is no problem; return the exit code."""
    parser = OneLineParser(prog, description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        metavar="FILE",
        default=DEFAULT_CONFIG,
        help=f"default: {DEFAULT_CONFIG}",
    )
    parser.add_argument("--json", action="store_true", help='print {"ok", "problems", "warnings"}')
    parsed = parser.parse_args(arguments)
    problems, warnings = check(parsed.file)
    if parsed.json:
        print(json.dumps({"ok": not problems, "problems": problems, "warnings": warnings}, indent=1))  # noqa: T201
    else:
        lines = [*problems, *(f"warning: {each}" for each in warnings), *(() if problems else ("ok",))]
        print("\n".join(lines))  # noqa: T201
    return EXIT_WRONG_USE if problems else EXIT_OK


def check(path: Path) -> tuple[list[str], list[str]]:
    """Return every problem of a file, and what would be passed over, each in one line."""
    try:
        config = load_config(path)
    except SettingsError as error:
        return error.problems, []
    found: list[tuple[KeyPath, str]] = []
    for problem in config.port_lists().problems:
        key, _, text = problem.partition(": ")
        found.append(((key,), text))
    for key, why in check_files(config):
        found.append(((key,), f"a server would not start here: {why}"))
    found += check_networks(config)
    lines = key_lines(path.read_text(encoding="utf-8-sig")) if found else {}
    return [], [f"{_place(path, lines.get(keys))}: {'.'.join(keys)}: {text}" for keys, text in found]


def _place(path: Path, line: int | None) -> str:
    """A key that the file does not have has its default."""
    return str(path) if line is None else f"{path}:{line}"
