"""Command line flags for settings: one for each key that is not in a table, and --config."""

from __future__ import annotations

import argparse
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tunnel_daemon.settings import declared, fields_by_key, is_table, read_settings, table_by_name
from tunnel_daemon.settings_aliases import Aliased
from tunnel_daemon.settings_values import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


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
    kinds = typing.get_type_hints(cls)
    for key, field in fields_by_key(cls).items():
        about = declared(field)
        kind = kinds[field.name]
        if is_table(kind) or table_by_name(kind) or about.secret:  # a command line is everybody's to read
            continue
        parser.add_argument(
            f"--{key}",
            dest=key,
            metavar=key.rpartition("-")[2].upper(),
            default=argparse.SUPPRESS,
            help=about.doc.replace("%", "%%"),
        )


def settings_from_flags(
    arguments: argparse.Namespace, cls: type[S], default: Path, aliased: Aliased | None = None
) -> S:
    """Return the settings of the file that ``--config`` names (or `default`), flags and aliases winning.

    Raises SettingsError. Without ``--config``, a `default` that does not exist means no file.
    """
    given = vars(arguments)
    path: Path | None = given.get("config")
    if path is None and not _is_missing(default):
        path = default
    keys = fields_by_key(cls)
    aliased = aliased or Aliased()
    overrides = {key: given[key] for key in keys if key in given} | aliased.overrides
    return read_settings(cls, path, overrides, aliased.flags)


def _is_missing(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it is there, and reading it will say why it can't be: never defaults in silence
        return False
    return False
