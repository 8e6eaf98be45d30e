"""The reference of all settings, rendered from the dataclasses that declare them.

python -m tunnel_daemon.settings_reference >docs/configuration.md
"""

from __future__ import annotations

import argparse
import importlib
import sys
import typing
from dataclasses import MISSING
from typing import TYPE_CHECKING

from tunnel_daemon.settings import Between, declared, fields_by_key, is_table, table_by_name
from tunnel_daemon.settings_flags import OneLineParser
from tunnel_daemon.settings_values import expected, is_list, toml_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

PROGRAMS = ("tunnel-server=tunnel_server.config:ServerConfig", "tunnel-agent=tunnel_agent.config:AgentConfig")
"""Loaded by name, and only when the page is rendered: this package imports no program."""

INTRODUCTION = """\
# Configuration

Rendered from the code by `python -m tunnel_daemon.settings_reference`: change the declarations there.

Files are TOML. Every key may be left out unless it is marked required. An unknown key, a value of a
wrong type and a failed check are refused, all at once, each with its line; nothing is ignored in
silence. Where a list is expected, a single value may stand alone. Keys outside of tables are flags
too (`--log-level debug`; lists with commas), secrets excepted; a flag wins over the file.

A change of a key marked *live* applies within seconds of saving the file, or at once on SIGHUP, and
connections go on. Every other key needs a restart, and is named in the log when it changes. A file with a
mistake changes nothing; `tunnel-server check-config FILE` finds a server's beforehand.
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the page; exits with 2 and one line for what is no program."""
    parser = OneLineParser(
        "python -m tunnel_daemon.settings_reference", description="Prints docs/configuration.md."
    )
    parser.add_argument(
        "programs",
        nargs="*",
        type=_program,
        metavar="NAME=MODULE:CLASS",
        help=f"a section of the page, and the dataclass it is about (default: {' '.join(PROGRAMS)})",
    )
    given = parser.parse_args(arguments).programs
    sys.stdout.write(render(dict(given or map(_program, PROGRAMS))))


def _program(text: str) -> tuple[str, type[DataclassInstance]]:
    name, _, place = text.partition("=")
    module, _, cls = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ValueError, ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=MODULE:CLASS: {error}") from None
    if not is_table(found):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=MODULE:CLASS: {cls} is no dataclass of settings"
        )
    return name, found


if __name__ == "__main__":
    main()
