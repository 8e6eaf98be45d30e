"""Command line flags for settings: one for each key that is not in a table, and --config."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tunnel_daemon.command_line import flagged
from tunnel_daemon.settings import declared
from tunnel_daemon.settings_values import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser for which wrong use costs one line."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, the flag that was probably meant, and where to read on; exits with 2."""
        flag = re.match(r"unrecognized arguments: (--[a-z-]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        meant = nearest(flag[1], known) if flag else None
        hint = f"; did you mean {meant}?" if meant else ""
        self.exit(2, f"{self.prog}: {message}{hint}; see {self.prog} --help\n")


def add_setting_flags(parser: argparse.ArgumentParser, cls: type[DataclassInstance], default: Path) -> None:
    """Give `parser` ``--config FILE`` (`default`, which may be missing) and a flag for each setting."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings in TOML (default: {default}, if it exists)"
    )
    for key, field in flagged(cls):
        parser.add_argument(
            f"--{key}",
            dest=key,
            metavar=key.rpartition("-")[2].upper(),
            default=argparse.SUPPRESS,
            help=declared(field).doc.replace("%", "%%"),
        )
