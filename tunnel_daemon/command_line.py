"""Settings from a command line: the file that `--config` names, with the flags over it.

`settings_flags` has the argument parser. A program that is to stay small does without for the command lines
that services have, which are plain: argparse takes 0.4 MiB for as long as the process lives.
"""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any, TypeVar

from tunnel_daemon.settings import declared, fields_by_key, is_table, read_settings, table_by_name
from tunnel_daemon.settings_aliases import Aliased

if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def flagged(cls: type[DataclassInstance]) -> Iterator[tuple[str, dataclasses.Field[Any]]]:
    """The settings that have a flag, by their keys: no tables, and no secrets, since every user sees them."""
    kinds = typing.get_type_hints(cls)
    for key, field in fields_by_key(cls).items():
        kind = kinds[field.name]
        if not (is_table(kind) or table_by_name(kind) or declared(field).secret):
            yield key, field


def plain_flags(
    words: Sequence[str], cls: type[DataclassInstance], others: Collection[str] = ()
) -> dict[str, str] | None:
    """Return the values of `words` by flag, where each is `--FLAG VALUE` or `--FLAG=VALUE` and stands once.

    Flags are those of `cls`, `config`, and `others`. None for anything else, right or wrong: an argument
    parser has to look at it.
    """
    known = {"config", *others, *(key for key, _ in flagged(cls))}
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if not equals:
            value = next(rest, "")
        if not flag.startswith("--") or flag[2:] not in known or flag[2:] in found:
            return None
        if not value or value.startswith("-"):
            return None
        found[flag[2:]] = value
    return found


def settings_from_flags(arguments: object, cls: type[S], default: Path, aliased: Aliased | None = None) -> S:
    """Return the settings of the file that ``--config`` names (or `default`), flags and aliases winning.

    Takes what an argument parser returns. Raises SettingsError. Without ``--config``, a `default` that does
    not exist means no file.
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
