"""The secrets that a TLS handshake agrees on, for `records.py`.

Python's ssl gives them to a file only, in the format of NSS's key log (RFC 9850). This one is a pipe that
nobody else has, and that is there for one step of one handshake: nothing is ever on a disk. OpenSSL would
log each KeyUpdate as well, which a peer can send at any time, and wait where a pipe is full.
"""

from __future__ import annotations

import os
import ssl
import threading
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_CLIENT: Final = "CLIENT_TRAFFIC_SECRET_0"
_SERVER: Final = "SERVER_TRAFFIC_SECRET_0"
_MOST: Final = 65536
"""Bytes; a step of a handshake logs about a thousand."""


class LoggedContext(ssl.SSLContext):
    """A context whose connections may go on without OpenSSL once their handshakes are over.

    One thread has to make all their handshakes: what is logged is the context's, and says whose it is by a
    number that Python does not know, so a step of another thread's meanwhile would be taken for this one's.
    A `SecretLog` of another thread logs nothing.
    """

    log_secrets = False
    """Whether they are to."""
    thread = 0
    """That one's identifier; 0 before the first handshake."""


class SecretLog:
    """What is agreed on inside of a `with`, in which one handshake makes one step. Raises nothing: without
    /proc, or a free descriptor, nothing is known then.
    """

    def __init__(self, context: LoggedContext) -> None:
        self._context = context
        self._pipe = -1
        self.client = b""
        """The first secret of the client's direction; empty until it is agreed on."""
        self.server = b""

    def __enter__(self) -> Self:
        context, thread = self._context, threading.get_ident()
        context.thread = context.thread or thread
        if context.thread != thread:
            return self
        try:
            self._pipe, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return self
        try:
            context.keylog_filename = f"/proc/self/fd/{theirs}"
        except OSError:
            pass
        finally:
            os.close(theirs)  # OpenSSL has opened it again, for itself
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pipe < 0:
            return
        # None, which closes it, is not in the stubs.
        self._context.keylog_filename = None  # type: ignore[assignment]
        try:
            self._read(os.read(self._pipe, _MOST).decode("ascii"))
        except (OSError, ValueError):  # a process that was forked just now may still hold the other end
            pass
        finally:
            os.close(self._pipe)
            self._pipe = -1

    def _read(self, text: str) -> None:
        for line in text.splitlines():
            label, _, rest = line.partition(" ")
            if label == _CLIENT:
                self.client = bytes.fromhex(rest.partition(" ")[2])
            elif label == _SERVER:
                self.server = bytes.fromhex(rest.partition(" ")[2])
