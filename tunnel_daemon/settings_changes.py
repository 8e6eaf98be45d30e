"""Two versions of a program's settings: what differs, and what of it may apply while the program runs."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from tunnel_daemon.settings import Declared, declared, fields_by_key, is_table, table_by_name
from tunnel_daemon.settings_values import toml_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

_ABSENT = "(none)"


@dataclass(frozen=True, slots=True)
class Change:
    """One key with another value; the texts are as a file has them, secrets excepted."""

    key: str
    old: str
    new: str
    live: bool

    def __str__(self) -> str:
        return f"{self.key}: {self.old} -> {self.new}"


def changes(old: S, new: S, prefix: str = "") -> Iterator[Change]:
    """Yield each key that differs, in the order of declaration; keys of tables as ``limits.calls``."""
    kinds = typing.get_type_hints(type(old))
    for key, field in fields_by_key(type(old)).items():
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        about, name = declared(field), prefix + key
        if is_table(kinds[field.name]):
            yield from changes(before, after, f"{name}.")
        elif table_by_name(kinds[field.name]):
            yield from _changed_tables(name, before, after, about)
        else:
            yield Change(name, _shown(before, about), _shown(after, about), about.live)


def applicable(old: S, new: S) -> S:
    """Return `new` with the values of `old` for every key that is not live."""
    kinds = typing.get_type_hints(type(old))
    values: dict[str, Any] = {}
    for field in dataclasses.fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if is_table(kinds[field.name]):
            values[field.name] = applicable(before, after)
        elif not declared(field).live:
            values[field.name] = before
    return dataclasses.replace(new, **values)


def _changed_tables(
    prefix: str, old: Mapping[str, DataclassInstance], new: Mapping[str, DataclassInstance], about: Declared
) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            before, after = (_table(each[name]) if name in each else _ABSENT for each in (old, new))
            yield Change(f"{prefix}.{name}", before, after, about.live)


def _table(value: DataclassInstance) -> str:
    pairs = (
        f"{key} = {_shown(getattr(value, field.name), declared(field))}"
        for key, field in fields_by_key(type(value)).items()
        if getattr(value, field.name) is not None
    )
    return f"{{{', '.join(pairs)}}}"


def _shown(value: object, about: Declared) -> str:
    return "(a secret)" if about.secret else toml_value(value, about.unit)
