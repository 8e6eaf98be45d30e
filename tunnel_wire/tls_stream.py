"""TLS over a socket as an ordinary trio stream, for protocols that are not ours (the HTTPS API)."""

from __future__ import annotations

import contextlib
import operator
import ssl
from typing import TYPE_CHECKING

import trio

from tunnel_wire.exclusive import Exclusive
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.tls import RECEIVE_SIZE, TlsEnded, receive_some, send_all

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from tunnel_wire.flow import Buffer
    from tunnel_wire.tls import TlsPump

_MOST_ANSWERS = 64 * 1024
"""Bytes that TLS may have to say by itself while nobody sends: more than 2,000 changes of keys."""


class TlsStream(trio.abc.HalfCloseableStream):
    """One connection, after its handshake."""

    def __init__(self, sock: socket.socket, pump: TlsPump) -> None:
        self._sock = sock
        self._pump = pump
        self._buffer = memoryview(bytearray(RECEIVE_SIZE // 4))
        self._cut = False
        """Ciphertext was lost: nothing that comes behind it can be decrypted."""
        self._ended = False
        """We have said close_notify."""
        self._send_conflict = Exclusive("another task is sending on this TlsStream")
        self._receive_conflict = Exclusive("another task is receiving on this TlsStream")

    async def send_all(self, data: Buffer) -> None:
        """Send `data`. Raises BrokenResourceError, ClosedResourceError.

        Cancelled while it waited for the socket, it leaves a stream that can only be closed.
        """
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            if len(data):
                with _trio_errors():
                    self._pump.write([data], len(data))
            await self._send_ciphertext()

    async def send_eof(self) -> None:
        """Say close_notify; the peer's direction goes on. Raises and is cancelled as `send_all`."""
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check_open()
            if not self._ended:
                self._check_sendable()
                self._ended = True
                self._pump.end_sending()
                await self._send_ciphertext()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes more."""
        with self._send_conflict:
            self._check_sendable()
            with _trio_errors():
                await trio.lowlevel.wait_writable(self._sock)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Decrypted bytes; empty at a proper end. Cancellable without loss.

        Raises BrokenResourceError when the connection was cut.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receive_conflict:
            await trio.lowlevel.checkpoint()
            buffer = self._buffer[:max_bytes]
            while True:
                self._check_open()
                try:
                    if count := self._pump.read_into(buffer):
                        return bytes(buffer[:count])
                except TlsEnded:
                    return b""
                except ssl.SSLError as exc:
                    raise trio.BrokenResourceError(str(exc)) from exc
                if self._pump.output.pending > _MOST_ANSWERS:
                    raise trio.BrokenResourceError("a flood of TLS key updates")
                with _trio_errors():
                    received = await receive_some(self._sock, RECEIVE_SIZE)
                if received:
                    self._pump.feed(received)
                else:
                    self._pump.feed_eof()

    async def aclose(self) -> None:
        """Say close_notify if the socket takes it at once, and close."""
        if self._sock.fileno() >= 0:
            if not self._cut and not self._ended:
                self._pump.close_notify()
                with contextlib.suppress(OSError):
                    self._sock.send(self._pump.ciphertext())
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Close with a TCP reset and without close_notify: what the peer has received can't look complete."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            close_with_reset(self._sock)

    def unreceive(self, data: Buffer) -> None:
        """Give back what `receive_some` gave: it is received again."""
        self._pump.unread(data)

    @property
    def socket(self) -> socket.socket:
        """The TCP socket underneath, to be watched and asked, not read or written."""
        return self._sock

    async def _send_ciphertext(self) -> None:
        with _trio_errors():
            self._cut = True
            await send_all(self._sock, self._pump.ciphertext())
            self._cut = False

    def _check_sendable(self) -> None:
        self._check_open()
        if self._ended:
            raise trio.ClosedResourceError("this direction of the stream was ended")
        if self._cut:
            raise trio.BrokenResourceError("an earlier send was cancelled or failed")

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream was closed")


@contextlib.contextmanager
def _trio_errors() -> Iterator[None]:
    """Turn a socket's OSError into trio's BrokenResourceError."""
    try:
        yield
    except OSError as exc:
        raise trio.BrokenResourceError(str(exc)) from exc
