"""Work in a process of its own, because an idle agent should not load for it what it takes (`cryptography`).

The module is run with `python -m`; its settings go in on stdin as JSON, so that nothing of them is on a
command line, and its outcome comes out on stdout. A failure is one line on stderr, exit code 1, and on stdout
the server's word for a refusal, if it was that.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import DataclassInstance

_PATIENCE = 180.0
"""Seconds that such a process may take, over all servers."""


class ApartError(Exception):
    """It did not succeed; one line. `code` is the server's word for its refusal, if it was that."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


async def run_apart(module: str, settings: Mapping[str, object]) -> dict[str, Any]:
    """Run `module`, and return its outcome; raises ApartError. Cancelled, the process is ended."""
    # -P: what lies in the working directory is not ours.
    command = [sys.executable, "-P", "-m", module]
    try:
        with trio.fail_after(_PATIENCE):
            done = await trio.run_process(
                command,
                stdin=json.dumps(settings).encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    except trio.TooSlowError:
        raise ApartError(f"no answer within {_PATIENCE:g} s") from None
    except OSError as error:
        raise ApartError(f"{sys.executable} cannot be run: {error.strerror}") from None
    try:
        said: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = {}
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        text = lines[-1] if lines else f"{module} ended with {done.returncode}"
        raise ApartError(text, str(said.get("refused", "")))
    if not said:
        raise ApartError(f"{module} said nothing that can be read")
    return said


def serve_apart(
    work: Callable[[dict[str, Any]], DataclassInstance], known: tuple[type[Exception], ...]
) -> int:
    """Be that process: do `work` with the settings, report, and return the exit code.

    Of the exceptions that are `known`, the text is for the operator, and `code`, if they have it, as above.
    """
    try:
        outcome = work(json.load(sys.stdin))
    except known as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        if code := getattr(error, "code", ""):
            sys.stdout.write(json.dumps({"refused": code}) + "\n")
        return 1
    sys.stdout.write(json.dumps(asdict(outcome)) + "\n")
    return 0
