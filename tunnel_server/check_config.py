"""`tunnel-server check-config [FILE]`: whether a server would start with a file, or take it while it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_daemon.program import EXIT_OK, EXIT_WRONG_USE
from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_flags import OneLineParser
from tunnel_daemon.toml_lines import key_lines
from tunnel_server.config import DEFAULT_CONFIG, load_config

if TYPE_CHECKING:
    from collections.abc import Sequence

_DESCRIPTION = """\
Check a configuration file without starting anything. What stops a server is a problem; an entry of a port
list that would not count, while the others do, is a warning."""
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
    found = config.port_lists().problems
    lines = key_lines(path.read_text(encoding="utf-8-sig")) if found else {}
    # Each begins with its key.
    return [], [f"{path}:{lines.get((each.partition(':')[0],), 1)}: {each}" for each in found]
