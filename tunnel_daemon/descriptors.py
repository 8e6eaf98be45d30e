"""File descriptors: as many as the machine gives, and what to do when they have run out."""

from __future__ import annotations

import errno
import logging
import math
import os
import resource

import trio

from tunnel_daemon import inheritance

log = logging.getLogger(__name__)

_PAUSE = 0.1
"""Seconds to wait when descriptors or memory have run out: a connection that ends may free some."""
_SAY_AGAIN = 60.0
"""Seconds between two lines that say so, whatever listeners feel it."""

_said: trio.lowlevel.RunVar[dict[int | None, float]] = trio.lowlevel.RunVar("shortages that were logged")
"""When, by errno."""


def raise_open_files() -> None:
    """Take as many file descriptors as the machine lets us: the usual 1024 are 1024 connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe(error: OSError) -> str:
    """What `error` says, in one line, and where descriptors have run out, what the limit is and where to
    change it.
    """
    text = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"{text}: this process may have {limit} (LimitNOFILE= in its unit, elsewhere `ulimit -n`)"
    if error.errno == errno.ENFILE:
        return f"{text}: the machine may have no more (sysctl fs.file-max)"
    return text


class Shortage:
    """What to do with the errors of accept(2) besides EAGAIN: EMFILE, ENOMEM, a connection that was reset."""

    def __init__(self, whom: str) -> None:
        """Take what cannot be accepted, for the log: `a caller`."""
        self._whom = whom

    async def wait_out(self, error: OSError) -> None:
        """Say it, unless it was said lately, and wait a moment."""
        try:
            said = _said.get()
        except LookupError:
            _said.set(said := {})
        now = trio.current_time()
        if now - said.get(error.errno, -math.inf) >= _SAY_AGAIN:
            said[error.errno] = now
            log.error("cannot accept %s, which has to wait: %s", self._whom, describe(error))
        await trio.sleep(_PAUSE)


class Acceptor:
    """Accepts from one listener, whatever runs out."""

    def __init__(self, listener: trio.SocketListener, whom: str) -> None:
        self._listener = listener
        self._shortage = Shortage(whom)

    async def accept(self) -> trio.SocketStream:
        """Wait for the next connection. Raises ClosedResourceError once the listener is closed.

        Nobody is accepted while sockets are borrowed: see `inheritance`.
        """
        await inheritance.owned()
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                await self._shortage.wait_out(error)
