"""Flags of another program that ours is put in the place of: taken over, passed over with a word, or refused.

A flag that means what one of our settings means sets it. One that has no meaning here costs a warning that
says why. Where passing it over would leave its user believing something dangerous or something that does not
come about, it is refused, with the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tunnel_daemon.settings import SettingsError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Mapping, Sequence

_DESTINATION = "alias "
"""Before a flag's name, where argparse keeps its value; no setting has a name with a blank."""


@dataclass(frozen=True, slots=True)
class Alias:
    """One flag, without its dashes, and exactly one of `key`, `unused`, `refused` and `checked`."""

    flag: str
    short: str = ""
    key: str = ""
    """The setting that it stands for."""
    unused: str = ""
    """Why it has no meaning here."""
    refused: str = ""
    """Why it can't be passed over, and what to do instead."""
    checked: str = ""
    """What its value must be: the program sees to that."""
    harmless: Collection[str] = ()
    """Values that ask for nothing that we do not do: no word about them."""
    translate: Callable[[str], str] = str
    """From its value to the setting's."""
    bare: str | None = None
    """Its value if it stands alone, as Go's truths may."""

    @property
    def meaning(self) -> str:
        """For people, in a line."""
        if self.key:
            return f"the same as --{self.key}"
        if self.refused:
            return f"refused: {self.refused}"
        return f"not used: {self.unused}" if self.unused else f"not needed: {self.checked}"


@dataclass
class Aliased:
    """What a command line's aliases come to."""

    overrides: dict[str, str] = field(default_factory=dict)
    """Settings by key."""
    flags: dict[str, str] = field(default_factory=dict)
    """For each of them, the flag that was written."""
    checked: dict[str, str] = field(default_factory=dict)
    """Values, by flag, that the program has to look at."""
    warnings: list[str] = field(default_factory=list)


def add_alias_flags(parser: argparse.ArgumentParser, title: str, aliases: Sequence[Alias]) -> None:
    """Give `parser` these flags, in a group of their own with `title`."""
    from argparse import SUPPRESS

    group = parser.add_argument_group(title)
    for alias in aliases:
        group.add_argument(
            *([f"-{alias.short}"] if alias.short else []),
            f"--{alias.flag}",
            dest=_DESTINATION + alias.flag,
            metavar="VALUE",
            default=SUPPRESS,
            help=alias.meaning.replace("%", "%%"),
            nargs=None if alias.bare is None else "?",
            const=alias.bare,
        )


def read_aliases(arguments: object, aliases: Sequence[Alias]) -> Aliased:
    """Return what the given ones of `aliases` come to. Raises SettingsError with a line for each refusal."""
    given: Mapping[str, Any] = vars(arguments)
    found = Aliased()
    problems: list[str] = []
    for alias in aliases:
        value = given.get(_DESTINATION + alias.flag)
        if value is None:
            continue
        if alias.key and (alias.key in given or alias.key in found.overrides):
            other = found.flags.get(alias.key, alias.key)
            problems.append(f"--{alias.flag}: means the same as --{other}; give one of them")
        elif value in alias.harmless:
            continue
        elif alias.key:
            found.overrides[alias.key] = alias.translate(value)
            found.flags[alias.key] = alias.flag
        elif alias.checked:
            found.checked[alias.flag] = value
        elif alias.refused:
            problems.append(f"--{alias.flag} {value}".rstrip() + f": {alias.refused}")
        else:
            found.warnings.append(f"--{alias.flag} is not used: {alias.unused}")
    if problems:
        raise SettingsError(problems)
    return found
