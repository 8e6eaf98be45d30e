"""Label selectors, as Kubernetes has them: `a=b`, `a==b`, `a!=b`, `a`, `!a`, `a in (b,c)`, `a notin (b,c)`.

Standard library only: settings are read where there is no cluster.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY = r"(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"\s*(?:(?P<absent>!)\s*(?P<no>{_KEY})"
    rf"|(?P<key>{_KEY})\s*(?:(?P<equal>==?|!=)\s*(?P<value>{_VALUE})"
    rf"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?)\s*(?:,|$)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: whether the label's value is, or is not, one of these (None: whatever it is)."""

    key: str
    values: frozenset[str] | None
    positive: bool

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it. What lacks the label satisfies what is negative."""
        value = labels.get(self.key)
        found = value is not None and (self.values is None or value in self.values)
        return found is self.positive


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Terms that must all be satisfied."""

    FORM: ClassVar[str] = 'a label selector like "a=b,c in (d,e),!f"'

    text: str
    requirements: tuple[Requirement, ...]

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Read a selector; raises ValueError. An empty one would match every Node, and is none."""
        requirements: list[Requirement] = []
        at = 0
        while at < len(text) or not requirements:
            term = _TERM.match(text, at)
            if term is None or term.end() == at:
                raise ValueError(f'expected {cls.FORM}, not "{text[:80]}"')
            requirements.append(_requirement(term))
            at = term.end()
        return cls(text, tuple(requirements))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(each.matches(labels) for each in self.requirements)

    def __str__(self) -> str:
        return self.text


def _requirement(term: re.Match[str]) -> Requirement:
    if term["absent"]:
        return Requirement(term["no"], None, positive=False)
    if term["equal"]:
        return Requirement(term["key"], frozenset({term["value"]}), positive=term["equal"] != "!=")
    if term["set"]:
        values = frozenset(each.strip() for each in term["values"].split(","))
        if not all(re.fullmatch(_VALUE, each) for each in values):
            raise ValueError(f'"{term["values"][:60]}" are no values of a label')
        return Requirement(term["key"], values, positive=term["set"] == "in")
    return Requirement(term["key"], None, positive=True)
