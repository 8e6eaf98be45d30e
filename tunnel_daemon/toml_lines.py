"""On which line of a TOML document each key stands; tomllib does not say."""

from __future__ import annotations

import re

_BARE_OR_QUOTED = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_BARE_OR_QUOTED}(?:\s*\.\s*{_BARE_OR_QUOTED})*"
_KEY = re.compile(rf"\s*({_DOTTED})\s*=(.*)")
_TABLE = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]\]?\s*(?:#.*)?$")
_PART = re.compile(_BARE_OR_QUOTED)
_MULTILINE = re.compile(r'"""|\'\'\'')

KeyPath = tuple[str, ...]


def key_lines(text: str) -> dict[KeyPath, int]:
    """Map each table and key of a valid document to its line, counted from 1.

    Keys inside inline tables are left out: ask for their table. Lines inside multi-line strings
    are no keys.
    """
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    inside = ""  # the delimiter of the multi-line string we are in
    for number, line in enumerate(text.split("\n"), 1):
        if inside:
            inside = "" if inside in line else inside
            continue
        if heading := _TABLE.match(line):
            table = _parts(heading[1])
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table + _parts(key[1])
            for length in range(len(table) + 1, len(path) + 1):
                lines.setdefault(path[:length], number)
            inside = _left_open(key[2])
    return lines


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _left_open(value: str) -> str:
    delimiter = ""
    for found in _MULTILINE.findall(value):
        if not delimiter:
            delimiter = found
        elif delimiter == found:
            delimiter = ""
    return delimiter
