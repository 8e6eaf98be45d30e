"""Which build of the protocol is installed here: setup.py makes two of the same files."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from typing import Literal

import tunnel_wire


def build() -> Literal["compiled", "interpreted"]:
    """Say which of them an import of the hot modules takes; loads none: `--version` is answered at once."""
    # Any of setup.py's COMPILED: they are in one library, all or none.
    found = PathFinder.find_spec("tunnel_wire.session", tunnel_wire.__path__)
    compiled = found is not None and str(found.origin).endswith(tuple(EXTENSION_SUFFIXES))
    return "compiled" if compiled else "interpreted"


def version_line(program: str) -> str:
    """Return what `program --version` prints, such as "tunnel-agent 0.1.0 (compiled)"."""
    return f"{program} {tunnel_wire.__version__} ({build()})"
