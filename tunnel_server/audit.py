"""The audit log: who reached what, when, how much, and how it ended. One JSON line a call.

The file is only appended to. Rotation is the system's: it moves the file and sends SIGHUP, and `reopen`
begins the next one. A disk that is slow holds up a thread, never the event loop.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.program import ProgramError

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from tunnel_server.asked import Asked

log = logging.getLogger(__name__)

MODE = 0o640
MAX_WAITING = 10_000
"""Lines held in memory while the disk is slow; what comes beyond is lost, and that is told."""
_MAX_TEXT = 300
"""Characters of anything that a caller chose."""
_RETRY = 1.0
"""Seconds to wait when nothing could be written."""
_WARN_EVERY = 60.0


class Audit:
    """The open file, and the lines on their way to it.

    `record` at any time, `run` in a task, `close` last.
    """

    def __init__(self, path: Path) -> None:
        """Raises ProgramError if the file can't be opened for appending."""
        self._path = path
        self._lines: list[bytes] = []
        self._unwritten = b"\n" if _is_torn(path) else b""
        """What the file did not take at the last attempt, from the middle of a line perhaps."""
        self._more = trio.Event()
        self._lost = 0
        self._warned = time.monotonic() - _WARN_EVERY
        self._reopen = False
        try:
            self._file = self._open()
        except OSError as error:
            raise ProgramError(f"can't append to audit-log {path}: {_why(error)}") from None

    def record(
        self,
        when: datetime,
        asked: Asked,
        *,
        node: str,
        target: str,
        end: str,
        seconds: float,
        detail: str = "",
        to_node: int = 0,
        to_caller: int = 0,
    ) -> None:
        """Queue the line of a call that has ended, or did not come about. Never waits, never raises."""
        if len(self._lines) >= MAX_WAITING:
            self._lost += 1
            return
        entry: dict[str, str | int | float] = {
            "time": when.isoformat(timespec="milliseconds"),
            "seconds": round(seconds, 3),
            "frontend": asked.frontend,
            "caller": asked.caller,
            "identity": asked.identity,
            "wanted": asked.wanted[:_MAX_TEXT],
            "node": node,
            "target": target[:_MAX_TEXT],
            "end": end,
            "to_node": to_node,
            "to_caller": to_caller,
        }
        if detail:
            entry["detail"] = detail[:_MAX_TEXT]
        self._add(entry)

    def reopen(self) -> None:
        """Write what follows to a file opened anew: the old one was moved away."""
        self._reopen = True
        self._more.set()

    async def run(self) -> None:
        """Write lines as they come, until cancelled; `close` writes what is left."""
        while True:
            await self._more.wait()
            self._more = trio.Event()
            # Not abandoned when cancelled: `close` must not write beside it.
            self._take()
            if problem := await trio.to_thread.run_sync(self._write):
                self._warn(problem)
                self._more.set()
                await trio.sleep(_RETRY)
                continue
            if self._lines:
                self._more.set()
            if self._lost:
                lost, self._lost = self._lost, 0
                log.error(
                    "%d lines of the audit log %s were lost: it was not written in time", lost, self._path
                )
                self._add({"lost": lost})

    def close(self) -> None:
        """Write what is left, and close the file."""
        problem = self._write()  # what a cancelled write or a full disk has left ...
        self._take()
        if problem := problem or self._write():
            log.error("the end of the audit log is lost: %s", problem)
        os.close(self._file)

    def _add(self, entry: dict[str, str | int | float]) -> None:
        self._lines.append(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        self._more.set()

    def _take(self) -> None:
        """Have the next write write what waits; not before the last has succeeded, or nothing bounded it."""
        if not self._unwritten:
            self._unwritten, self._lines = b"".join(self._lines), []

    def _warn(self, problem: str) -> None:
        if time.monotonic() - self._warned >= _WARN_EVERY:
            self._warned = time.monotonic()
            log.error("the audit log can't be written: %s", problem)

    # --- in a thread ------------------------------------------------------------------------------

    def _write(self) -> str:
        """Append what was taken; what went wrong, or nothing. What was not written is kept."""
        problem = ""
        if self._reopen:
            try:
                file = self._open()
            except OSError as error:
                problem = f"{self._path} can't be opened anew: {_why(error)}"
            else:
                os.close(self._file)
                self._file, self._reopen = file, False
        try:
            while self._unwritten:
                self._unwritten = self._unwritten[os.write(self._file, self._unwritten) :]
        except OSError as error:
            problem = f"{self._path}: {_why(error)}"
        return problem

    def _open(self) -> int:
        return os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, MODE
        )


def _is_torn(path: Path) -> bool:
    """Whether the last line of a file has no end: of a server that was killed while the disk was full."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size  # 0 of what is no ordinary file
            return size > 0 and os.pread(file, 1, size - 1) != b"\n"
        finally:
            os.close(file)
    except OSError:
        return False


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
