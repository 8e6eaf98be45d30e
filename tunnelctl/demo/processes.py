"""The programs that the demo starts: each with its log, each ended by its process id, none left behind."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)  # looked up before any fork: the child may do little


def _end_with_parent() -> None:
    """Have the kernel send TERM when the thread that started us ends: even kill -9 leaves no orphans."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Processes:
    """A context manager over child processes; on leaving it, they are ended, last started first.

    Start them from a thread that lives as long as they should: the kernel ends them with it.
    """

    def __init__(self, logs: Path, *, grace: float = 5.0) -> None:
        """Write each program's output to `logs`/NAME.log; allow `grace` seconds between TERM and KILL."""
        self._logs = logs
        self._grace = grace
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end_all()

    def start(
        self, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program in a session of its own, so that a Ctrl-C on the terminal is ours alone.

        Started again under the same name, it goes on in the same log. Raises OSError: no such program.
        """
        with self.log(name).open("ab") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  one prctl: it takes no lock
            )
        self._running[name] = child
        return child

    def __getitem__(self, name: str) -> subprocess.Popen[bytes]:
        return self._running[name]

    def log(self, name: str) -> Path:
        """Where NAME's output is."""
        return self._logs / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of NAME's output, or of nothing if it has not been started."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def ended(self) -> dict[str, int]:
        """Exit status by name of those that have ended by themselves (negative: the signal)."""
        return {name: child.returncode for name, child in self._running.items() if child.poll() is not None}

    def names(self) -> list[str]:
        """Every program started and not ended by us, in that order."""
        return list(self._running)

    def end(self, name: str, *, signum: int = signal.SIGTERM) -> int:
        """End one program; after the grace, by KILL. Return its exit status. Does nothing if it has ended."""
        child = self._running.pop(name)
        if child.poll() is None:
            child.send_signal(signum)
        try:
            return child.wait(self._grace)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()

    def end_all(self) -> list[str]:
        """End every program, last started first, within one grace; return those that had to be killed."""
        children = list(reversed(self._running.items()))
        self._running.clear()
        for _, child in children:
            if child.poll() is None:
                child.terminate()
        deadline = time.monotonic() + self._grace
        killed = []
        for name, child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                killed.append(name)
        return killed
