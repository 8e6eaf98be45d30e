"""A program on a terminal of its own, with a window of some size, as somebody sits before it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence


class Terminal:
    """What it shows, and the keys."""

    def __init__(self, process: subprocess.Popen[bytes], keyboard: int) -> None:
        self.shown = b""
        self._process = process
        self._keyboard = keyboard

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._keyboard, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Drag the window's corner: its programs hear of it as from a real one."""
        fcntl.ioctl(self._keyboard, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._process.send_signal(signal.SIGWINCH)

    def until(self, pattern: str, *, timeout: float = 20) -> re.Match[bytes]:
        """Wait for what matches to be shown, and forget all up to there."""
        deadline = time.monotonic() + timeout
        while (found := re.search(pattern.encode(), self.shown)) is None:
            left = deadline - time.monotonic()
            assert left > 0, f"not shown within {timeout} s: {pattern!r}; only {self.shown!r}"
            if select.select([self._keyboard], [], [], left)[0]:
                with contextlib.suppress(OSError):  # the program has ended, and with it the terminal
                    self.shown += os.read(self._keyboard, 65536)
        self.shown = self.shown[found.end() :]
        return found


@contextlib.contextmanager
def terminal(words: Sequence[str], *, rows: int = 24, columns: int = 80) -> Iterator[Terminal]:
    """Start the program; on leaving, it is killed."""
    keyboard, screen = pty.openpty()
    try:
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        with subprocess.Popen(
            words, stdin=screen, stdout=screen, stderr=screen, start_new_session=True
        ) as process:
            try:
                yield Terminal(process, keyboard)
            finally:
                process.kill()
    finally:
        os.close(screen)
        os.close(keyboard)
