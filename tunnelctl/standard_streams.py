"""Standard input, output and error, any of which may be closed from the start, or go away meanwhile."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def complete_standard_streams() -> None:
    """Open each that was closed before we began, so that using it fails as usual (EBADF).

    Otherwise the next socket takes its number, and is taken for standard input or output.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number: this one
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - for as long as we run
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115 - nobody is told


def tell(text: str, *, error: bool = False) -> None:
    """Print a line of news at once. Without a reader it is lost: what it tells of goes on."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        silence(error=error)


def silence(*, error: bool = False) -> None:
    """Throw away what the stream still holds and gets: the interpreter would fail once more at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, (sys.stderr if error else sys.stdout).fileno())
    os.close(null)
