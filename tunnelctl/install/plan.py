"""What an installation would do to each object: make it, change it, or leave it as it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from tunnel_server.kube.references import ObjectReference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.resources import Object

MANAGER = "tunnelctl-install"
"""The field manager of all that install writes."""

_SERVERS_OWN = frozenset({"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"})
_COUNTER = "deprecated.daemonset.template.generation"
"""An annotation that counts changes."""


class Action(StrEnum):
    """What becomes of an object."""

    MAKE = "make"
    CHANGE = "change"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Step:
    """One object of the installation."""

    reference: ObjectReference
    wanted: Object
    before: Object | None
    """As it was when the plan was made; None: there was none."""
    action: Action
    changes: tuple[str, ...] = ()
    """What differs, one line a field."""

    def __str__(self) -> str:
        return f"{self.action} {self.reference}"


def step(wanted: Object, before: Object | None, after: Object | None) -> Step:
    """Judge one object by what applying it would make of it; `after` is None where that is not known yet."""
    reference = ObjectReference.of(wanted)
    if before is None:
        return Step(reference, wanted, None, Action.MAKE)
    changes = () if after is None else tuple(differences(_settled(before), _settled(after)))
    return Step(reference, wanted, before, Action.CHANGE if changes else Action.KEEP, changes)


def differences(before: object, after: object, path: str = "") -> Iterator[str]:
    """Yield, for each field that differs, its path with the old and the new value."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            where = f"{path}.{key}" if path else key
            yield from differences(before.get(key), after.get(key), where)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from differences(old, new, f"{path}[{index}]")
    elif isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        yield from _line_differences(before, after, path)
    elif before != after:
        yield f"{path}: {_shown(before)} -> {_shown(after)}"


def _line_differences(before: str, after: str, path: str) -> Iterator[str]:
    import difflib

    for line in difflib.unified_diff(before.split("\n"), after.split("\n"), lineterm="", n=0):
        if line[:1] in {"+", "-"} and line[:3] not in {"+++", "---"}:
            yield f"{path}: {line[0]} {line[1:]}"


def _shown(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _settled(live: Object) -> Object:
    """Return what somebody wrote, without what the apiserver keeps."""
    metadata = {key: value for key, value in live["metadata"].items() if key not in _SERVERS_OWN}
    notes = {key: value for key, value in metadata.get("annotations", {}).items() if key != _COUNTER}
    metadata["annotations"] = notes
    return {**{key: value for key, value in live.items() if key != "status"}, "metadata": metadata}
