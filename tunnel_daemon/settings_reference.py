"""The reference of all settings, rendered from the dataclasses that declare them.

python -m tunnel_daemon.settings_reference tunnel-server=tunnel_server.config:ServerConfig \
        tunnel-agent=tunnel_agent.config:AgentConfig >docs/configuration.md
"""

from __future__ import annotations

import importlib
import json
import sys
import typing
from dataclasses import MISSING
from typing import TYPE_CHECKING

from tunnel_daemon.settings import Between, declared, fields_by_key, is_table, table_by_name
from tunnel_daemon.settings_values import expected, is_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from _typeshed import DataclassInstance

INTRODUCTION = """\
# Configuration

Rendered from the code by `python -m tunnel_daemon.settings_reference`: change the declarations there.

Files are TOML. Every key may be left out unless it is marked required. An unknown key, a value of a
wrong type and a failed check are refused, all at once, each with its line; nothing is ignored in
silence. Where a list is expected, a single value may stand alone. Keys outside of tables are flags
too (`--log-level debug`; lists with commas), secrets excepted; a flag wins over the file.

A change of a key marked *live* applies within seconds of saving the file, or at once on SIGHUP, and
connections go on. Every other key needs a restart, and is named in the log when it changes. A file with a
mistake changes nothing; `tunnel-server check-config FILE` finds mistakes beforehand.
"""


def render(programs: Mapping[str, type[DataclassInstance]]) -> str:
    """Return the whole page, for programs by name."""
    return INTRODUCTION + "".join(
        "\n" + "\n".join(_section(f"## {name}", cls, "")) + "\n" for name, cls in programs.items()
    )


def _section(heading: str, cls: type[DataclassInstance], prefix: str) -> Iterator[str]:
    kinds = typing.get_type_hints(cls)
    yield from (heading, "", "| key | default | value | meaning |", "|---|---|---|---|")
    tables = []
    for key, field in fields_by_key(cls).items():
        kind, about = kinds[field.name], declared(field)
        if is_table(kind):
            tables.append((f"{prefix}{key}", kind, about))
            continue
        if inner := table_by_name(kind):
            tables.append((f"{prefix}{key}.NAME", inner, about))
            continue
        value = expected(kind, about.unit)
        if isinstance(about.check, Between):
            value += f"; {about.check}"
        if about.unit not in {"", "seconds", "bytes"}:
            value += f"; {about.unit}"
        if field.default is MISSING or (field.default is None and is_list(kind)):
            default = "required" if field.default is MISSING else "left out"
        else:
            default = f"`{toml_value(field.default, about.unit)}`"
        cells = [f"`{prefix}{key}`", default, value, about.doc + "; *live*" * about.live]
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    for path, kind, about in tables:
        doc = about.doc + "; *live*" * about.live
        yield from ("", *_section(f"### [{path}]\n\n{doc}", kind, f"{path}."))


def toml_value(value: object, unit: str) -> str:
    """Write a default the way a file would."""
    match value:
        case None:
            return '""'
        case tuple():
            return f"[{', '.join(toml_value(each, unit) for each in value)}]"
        case bool():
            return str(value).lower()
        case int() | float() if unit == "seconds":
            return f'"{value:.12g}s"'
        case int() if unit == "bytes":
            return _size(value)
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(str(value), ensure_ascii=False)


def _size(value: int) -> str:
    for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value and value % factor == 0:
            return f'"{value // factor}{name}"'
    return str(value)


def main(arguments: list[str]) -> None:
    """Print the page for ``NAME=MODULE:CLASS`` arguments."""
    programs = {}
    for argument in arguments:
        name, _, place = argument.partition("=")
        module, _, cls = place.partition(":")
        programs[name] = getattr(importlib.import_module(module), cls)
    sys.stdout.write(render(programs))


if __name__ == "__main__":
    main(sys.argv[1:])
