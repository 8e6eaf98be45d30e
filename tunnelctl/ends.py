"""One end of a forwarded connection: bytes, their end one way, and a reset that is never taken for an end.

A half-close is a FIN, over TLS a close_notify (RFC 8446, 6.1: the other direction goes on). A reset is a RST,
over TLS a connection that ends without close_notify, over a Unix socket, which knows no RST, one that is
closed both ways at once before we had ended ours.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from typing import TYPE_CHECKING, Protocol

import trio

from tunnel_wire.failures import forget, watch
from tunnel_wire.sockets import (
    close_properly,
    close_with_reset,
    reset_unless_closed_properly,
    unacknowledged,
)
from tunnel_wire.tls import TlsEnded, receive_some, send_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.tls import TlsPump

PIECE = 256 * 1024
"""Bytes read at once."""
_DRAIN_LIMIT = 1.0
"""Seconds that a reset waits for the peer's kernel to take what came before it."""
_DRAIN_POLL = 0.01


class EndFailed(Exception):
    """The end was reset or cut."""


class End(Protocol):
    """What `relaying` needs of an end. One task receives and one sends."""

    async def receive(self) -> bytes:
        """The next bytes; empty when the peer has ended its direction. Raises EndFailed. Cancellable."""

    async def send(self, data: bytes) -> None:
        """Send everything. Raises EndFailed; cancelled, an unknown part is sent."""

    async def finish(self) -> None:
        """End our direction. Raises EndFailed."""

    async def drain(self) -> None:
        """Wait, for a bounded time, until the peer's kernel has what was sent."""

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Call once if the end fails while nobody uses it."""

    def close(self, *, reset: bool) -> None:
        """Close; with a reset, so that the peer can't take it for an end."""


class SocketEnd:
    """A connected, non-blocking TCP or Unix socket. `ahead`: bytes that were read from it already."""

    def __init__(self, sock: socket.socket, ahead: bytes = b"") -> None:
        self._sock = sock
        self.ahead = ahead
        self._finished = False
        self._failed = False
        """Whoever meets an error first takes it: to others it looks like an end."""
        reset_unless_closed_properly(sock)

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""
        if self.ahead:
            data, self.ahead = self.ahead, b""
            return data
        try:
            data = await receive_some(self._sock, PIECE)
        except OSError as error:
            raise self._failure(error) from None
        if not data and (self._failed or self._hung_up()):
            raise EndFailed("it was reset")
        return data

    async def send(self, data: bytes) -> None:
        """Send everything."""
        try:
            await send_all(self._sock, data)
        except OSError as error:
            raise self._failure(error) from None

    async def finish(self) -> None:
        """Shut our direction down."""
        self._finished = True
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._failure(error) from None

    async def drain(self) -> None:
        """Wait until TCP has it acknowledged; a Unix socket's peer has it already."""
        if self._sock.family != socket.AF_UNIX:
            with trio.move_on_after(_DRAIN_LIMIT):
                # The kernel tells nobody when it falls to 0.
                while unacknowledged(self._sock) and not self._failed:  # noqa: ASYNC110
                    await trio.sleep(_DRAIN_POLL)

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Call once if the socket fails."""

        def failed() -> None:
            self._failed = True
            on_failure()

        watch(self._sock, failed)

    def close(self, *, reset: bool) -> None:
        """Close the socket."""
        _close(self._sock, reset=reset)

    def _failure(self, error: OSError) -> EndFailed:
        self._failed = True
        return EndFailed((error.strerror or str(error)).lower())

    def _hung_up(self) -> bool:
        if self._finished or self._sock.family != socket.AF_UNIX:
            return False
        poll = select.poll()
        poll.register(self._sock, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))


class TlsEnd:
    """A TLS connection after its handshake, over a TCP socket."""

    def __init__(self, sock: socket.socket, pump: TlsPump, ahead: bytes = b"") -> None:
        self._sock = sock
        self._pump = pump
        self.ahead = ahead
        self._buffer = memoryview(bytearray(PIECE))
        self._failed = False
        reset_unless_closed_properly(sock)

    async def receive(self) -> bytes:
        """The next bytes; empty at close_notify."""
        if self.ahead:
            data, self.ahead = self.ahead, b""
            return data
        try:
            while True:
                if count := self._pump.read_into(self._buffer):
                    return bytes(self._buffer[:count])
                if received := await receive_some(self._sock, PIECE):
                    self._pump.feed(received)
                else:
                    self._pump.feed_eof()
        except (TlsEnded, ssl.SSLZeroReturnError):  # the latter once we have said close_notify ourselves
            return b""
        except OSError as error:  # ssl.SSLError among them
            self._failed = True
            raise EndFailed(_words(error)) from None

    async def send(self, data: bytes) -> None:
        """Encrypt and send everything."""
        try:
            self._pump.write([data], len(data))
            await send_all(self._sock, self._pump.ciphertext())
        except OSError as error:
            self._failed = True
            raise EndFailed(_words(error)) from None

    async def finish(self) -> None:
        """Say close_notify; what the peer sends is still read."""
        self._pump.close_notify()
        try:
            await send_all(self._sock, self._pump.ciphertext())
        except OSError as error:
            self._failed = True
            raise EndFailed(_words(error)) from None

    async def drain(self) -> None:
        """Wait until the peer's kernel has acknowledged it."""
        with trio.move_on_after(_DRAIN_LIMIT):
            while unacknowledged(self._sock) and not self._failed:  # noqa: ASYNC110 - as above
                await trio.sleep(_DRAIN_POLL)

    def watch(self, on_failure: Callable[[], None]) -> None:
        """Call once if the socket fails."""
        watch(self._sock, on_failure)

    def close(self, *, reset: bool) -> None:
        """Close the socket: with a reset, without close_notify too."""
        _close(self._sock, reset=reset)


class StdioEnd:
    """Standard input and output, or any two file descriptors: files, pipes, terminals, sockets.

    They are used in threads and blocking, because the descriptors are shared with other processes, which a
    changed O_NONBLOCK would upset, and because the event loop can't wait for files.
    """

    def __init__(self, read_from: int = 0, write_to: int = 1) -> None:
        self._read_from = read_from
        self._write_to = write_to

    async def receive(self) -> bytes:
        """The next bytes; empty at the end. Cancelled, the thread reads on, and what it reads is lost."""
        try:
            return await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        except OSError as error:
            raise EndFailed(f"standard input: {_words(error)}") from None

    async def send(self, data: bytes) -> None:
        """Write everything."""
        try:
            await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)
        except OSError as error:
            raise EndFailed(f"standard output: {_words(error)}") from None

    async def finish(self) -> None:
        """Close standard output, so that its reader sees the end."""
        # The number stays taken, so that nothing else is written there by accident.
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(null, self._write_to)
        os.close(null)
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        """What is written is delivered."""

    def watch(self, on_failure: Callable[[], None]) -> None:
        """A pipe tells of its failure when it is used."""

    def close(self, *, reset: bool) -> None:
        """They are the process's, and go with it."""

    def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._read_from, PIECE)
            except BlockingIOError:  # whoever shares it wants it so
                select.select([self._read_from], [], [])

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._write_to, view) :]
            except BlockingIOError:
                select.select([], [self._write_to], [])


def _close(sock: socket.socket, *, reset: bool) -> None:
    with contextlib.suppress(LookupError):  # nothing was ever watched
        forget(sock)
    if reset:
        close_with_reset(sock)
    else:
        close_properly(sock)


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLEOFError):
        return "it was cut"
    reason = getattr(error, "reason", None) or error.strerror or str(error)
    return str(reason).lower().replace("_", " ")
