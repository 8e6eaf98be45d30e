"""Strict settings: a TOML file into a frozen dataclass, or every reason why not.

Keys are the field names with ``-`` for ``_``; a field whose type is a dataclass is a table.
Unknown keys, wrong types and failed checks are all reported at once, each with its line.
What a value may look like is in `tunnel_daemon.settings_values`; the reference in docs/ is
rendered from the same fields by `tunnel_daemon.settings_reference`.

Modules that declare settings must not use ``from __future__ import annotations`` under ruff's
TC rules, or import what the annotations name at run time: the types are looked up here.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import typing
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tunnel_daemon.logs import printable
from tunnel_daemon.settings_values import Kind, convert, expected, from_text, nearest
from tunnel_daemon.toml_lines import KeyPath, key_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance

T = TypeVar("T")
S = TypeVar("S", bound="DataclassInstance")

MAX_FILE = 1024 * 1024  # bytes


class SettingsError(Exception):
    """The settings can't be used; `problems` are lines for the operator, `str()` joins them."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = [printable(each) for each in problems]

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SettingsUnreadableError(SettingsError):
    """Their file can't be read now: nothing is known of what it says."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What `setting` was told of a field."""

    doc: str = ""
    unit: str = ""
    check: Callable[[Any], None] | None = None
    secret: bool = False
    live: bool = False


def setting(
    default: T = MISSING,  # type: ignore[assignment]  # as in dataclasses.field
    *,
    doc: str,
    unit: str = "",
    check: Callable[[Any], None] | None = None,
    secret: bool = False,
    live: bool = False,
) -> T:
    """Declare a field; without a default the key is required.

    `unit` is "seconds", "bytes" or a word for the reference. `check` gets the converted value (each name,
    of a table of tables) and raises ValueError saying what is wrong with it. A `secret` is never printed.
    A `live` one may change while the program runs; in a table, each key is declared so by itself.
    """
    metadata = {"setting": Declared(doc, unit, check, secret, live)}
    if isinstance(default, dict):  # mutable, so each instance gets its own
        make: Callable[[], T] = default.copy  # type: ignore[assignment]
        return dataclasses.field(default_factory=make, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def read_settings(
    cls: type[S],
    path: Path | None,
    overrides: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> S:
    """Return a `cls` from the TOML file at `path`, or from the defaults alone if that is None.

    `overrides` maps top-level keys ("log-level") to text from the command line, which wins; `flags` has
    the flag's name where it is not the key's.
    If `cls` has a method ``cross_check() -> Iterator[tuple[str | KeyPath, str]]``, it yields (key, problem)
    for what is wrong between fields; a key of a table by its path. Raises SettingsError, and nothing else,
    for bad settings.
    """
    document: dict[str, Any] = {}
    lines: dict[KeyPath, int] = {}
    if path is not None:
        document, lines = _read_document(path)
    known = fields_by_key(cls)
    kinds = typing.get_type_hints(cls)
    for key, text in (overrides or {}).items():
        document[key] = from_text(kinds[known[key].name], text)
    names = {key: (flags or {}).get(key, key) for key in overrides or ()}
    reader = _Reader(str(path) if path else "settings", lines, names, cls)
    settings = reader.table(cls, document, ())
    if reader.problems or settings is None:
        raise SettingsError(reader.problems)
    return settings


def fields_by_key(cls: type[DataclassInstance]) -> dict[str, dataclasses.Field[Any]]:
    """Map each key of a table to the field it fills, in the order of declaration."""
    return {field.name.replace("_", "-"): field for field in dataclasses.fields(cls)}


def is_table(kind: Kind) -> typing.TypeGuard[type[DataclassInstance]]:
    """Whether a field of this type is a TOML table: a dataclass that is not written as one string."""
    return dataclasses.is_dataclass(kind) and not hasattr(kind, "parse")


def table_by_name(kind: Kind) -> type[DataclassInstance] | None:
    """The dataclass of each table, if a field of this type is a table of tables with names of their own.

    Written ``dict[str, SomeDataclass]``; in TOML, ``[key.NAME]``.
    """
    origin: object = typing.get_origin(kind)
    return typing.get_args(kind)[1] if origin is dict else None


def declared(field: dataclasses.Field[Any]) -> Declared:
    """Return what `setting` was told of a field."""
    found: Declared = field.metadata.get("setting", Declared())
    return found


@dataclass(frozen=True, slots=True)
class Between:
    """A check that a number lies within both bounds."""

    low: float
    high: float

    def __call__(self, value: float) -> None:
        """Raise ValueError if it does not."""
        if not self.low <= value <= self.high:
            raise ValueError(f"expected {self}, not {value}")

    def __str__(self) -> str:
        return f"at least {self.low}" if math.isinf(self.high) else f"{self.low} to {self.high}"


def between(low: float, high: float = math.inf) -> Between:
    """Return a check for `setting`; the reference tells the bounds."""
    return Between(low, high)


class _Reader:
    """Collects every problem of one document on the way to the dataclass."""

    def __init__(
        self,
        origin: str,
        lines: Mapping[KeyPath, int],
        flags: Mapping[str, str],
        root: type[DataclassInstance],
    ) -> None:
        self.origin = origin
        self.lines = lines
        self.flags = flags
        self.homes = dict(_all_keys(root, ()))
        self.problems: list[str] = []

    def table(self, cls: type[S], document: Mapping[str, Any], path: KeyPath) -> S | None:
        before = len(self.problems)
        known = fields_by_key(cls)
        kinds = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for key, value in document.items():
            if key not in known:
                self.unknown(key, known, path)
                continue
            name = known[key].name
            if is_table(kinds[name]):
                values[name] = self.subtable(kinds[name], value, (*path, key))
            elif inner := table_by_name(kinds[name]):
                values[name] = self.tables(inner, known[key], value, (*path, key))
            else:
                values[name] = self.value(known[key], kinds[name], value, (*path, key))
        for key, field in known.items():
            if field.default is MISSING and field.default_factory is MISSING and key not in document:
                self.problem((*path, key), f"is required: {declared(field).doc}")
        if len(self.problems) > before:
            return None
        settings = cls(**values)
        cross_check: Callable[[], Iterator[tuple[str | KeyPath, str]]] | None = getattr(
            settings, "cross_check", None
        )
        for where, text in cross_check() if cross_check else ():
            self.problem((*path, *((where,) if isinstance(where, str) else where)), text)
        return settings

    def subtable(self, cls: type[S], value: object, path: KeyPath) -> S | None:
        if isinstance(value, dict):
            return self.table(cls, value, path)
        self.problem(path, f"expected a table; write [{'.'.join(path)}]")
        return None

    def tables(
        self, cls: type[S], field: dataclasses.Field[Any], value: object, path: KeyPath
    ) -> dict[str, S | None]:
        if not isinstance(value, dict):
            self.problem(path, f"expected tables with names; write [{'.'.join(path)}.NAME]")
            return {}
        found = {}
        for name, document in value.items():
            check = declared(field).check
            try:
                if check:
                    check(name)
            except ValueError as error:
                self.problem((*path, name), str(error))
                continue
            found[name] = self.subtable(cls, document, (*path, name))
        return found

    def value(self, field: dataclasses.Field[Any], kind: Kind, value: object, path: KeyPath) -> object:
        about = declared(field)
        try:
            converted = convert(kind, about.unit, value)
            if about.check:
                about.check(converted)
        except ValueError as error:
            secret = f"expected {expected(kind, about.unit)}; what is there is not shown, for it is a secret"
            self.problem(path, secret if about.secret else str(error))
            return None
        return converted

    def unknown(self, key: str, known: Mapping[str, object], path: KeyPath) -> None:
        if meant := nearest(key, known):
            hint = f"did you mean {meant}?"
        elif home := self.homes.get(key.replace("_", "-")):
            hint = f"it belongs in [{'.'.join(home)}]"
        else:
            hint = "remove it, or look up the known keys in docs/configuration.md"
        self.problem((*path, key), f"unknown key; {hint}")

    def problem(self, path: KeyPath, text: str) -> None:
        if path[0] in self.flags:
            self.problems.append(f"--{self.flags[path[0]]}: {text}")
            return
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), None)
        place = f"{self.origin}:{line}" if line else self.origin
        self.problems.append(f"{place}: {'.'.join(path)}: {text}")


def _all_keys(cls: type[DataclassInstance], path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    kinds = typing.get_type_hints(cls)
    for key, field in fields_by_key(cls).items():
        kind = kinds[field.name]
        if is_table(kind):
            yield from _all_keys(kind, (*path, key))
        elif path:
            yield key, path


def _read_document(path: Path) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE + 1)
    except OSError as error:
        raise SettingsUnreadableError([f"{path}: can't be read: {error.strerror}"]) from None
    if len(raw) > MAX_FILE:
        raise SettingsError([f"{path}: is over {MAX_FILE} bytes, which no configuration is"])
    try:
        text = raw.decode("utf-8-sig").replace("\r\n", "\n")  # some editors put a byte order mark first
        return tomllib.loads(text), key_lines(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: is not UTF-8"]) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError([_toml_problem(path, str(error))]) from None


def _toml_problem(path: Path, message: str) -> str:
    """Move the line from the end of tomllib's words to where ours have it."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    if not found:
        return f"{path}: is not valid TOML: {message}"
    return f"{path}:{found[2]}: is not valid TOML: {found[1]}, column {found[3]}"
