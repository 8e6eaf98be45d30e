"""A program from start to exit code: what its operator did wrong costs one line, never a traceback."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from tunnel_daemon.settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_WRONG_USE = 2  # the configuration or the command line
EXIT_INTERRUPTED = 130


class ProgramError(Exception):
    """Ends the program; the message is one line naming the thing, the place and the remedy."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_program(
    name: str, main: Callable[[], Awaitable[None]], *, known: tuple[type[Exception], ...] = ()
) -> int:
    """Run `main` under trio and return the exit code for the process.

    ProgramError, SettingsError, OSError and the `known` exceptions (whose text is for the operator) become
    one line each on stderr, out of exception groups too. Anything else is a defect: one line
    naming it and its place, and the traceback in the log at level debug.
    """
    import trio  # half of a start; --help does without

    try:
        trio.run(main)
    except BaseException as error:  # noqa: BLE001 - the last place that can say it in one line
        return report(name, error, known)
    return EXIT_OK


def report(name: str, error: BaseException, known: tuple[type[Exception], ...] = ()) -> int:
    """Print one line a problem to stderr; returns the exit code they call for."""
    code = EXIT_OK
    lines: list[str] = []
    for leaf in _leaves(error):
        if isinstance(leaf, KeyboardInterrupt):
            return EXIT_INTERRUPTED
        if isinstance(leaf, SystemExit):
            return leaf.code if isinstance(leaf.code, int) else EXIT_FAILED
        leaf_code, texts = _explain(leaf, known)
        code = max(code, leaf_code)
        lines += [text for text in texts if text not in lines]
    for line in lines:
        print(f"{name}: {line}", file=sys.stderr, flush=True)  # noqa: T201 - logging may not be set up
    return code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _explain(error: BaseException, known: tuple[type[Exception], ...]) -> tuple[int, list[str]]:
    if isinstance(error, SettingsError):
        return EXIT_WRONG_USE, error.problems
    if isinstance(error, ProgramError):
        return error.exit_code, [str(error)]
    if isinstance(error, known):
        return EXIT_FAILED, [" ".join(str(error).split())]
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return EXIT_FAILED, [f"{place}{error.strerror}"]
    log.debug("internal error", exc_info=error)
    text = " ".join(str(error).split())
    return EXIT_FAILED, [f"internal error: {type(error).__name__}: {text} ({_place(error)})"]


def _place(error: BaseException) -> str:
    traceback = error.__traceback__
    if traceback is None:
        return "unknown place"
    while traceback.tb_next:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    module = traceback.tb_frame.f_globals.get("__name__", code.co_filename)
    return f"{module}:{traceback.tb_lineno}"
