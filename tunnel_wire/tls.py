"""TLS without a socket, and its handshake over one.

Links do not use `trio.SSLStream`: it gives one 16 KiB record a call, and cancelling its `send_all` breaks
both directions. An `SSLObject` over memory buffers encrypts whole frames at a time, and whoever has bytes to
send can do it synchronously.
"""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from tunnel_wire.record_sizes import HEADER, MOST_CONTENT
from tunnel_wire.secret_log import LoggedContext, SecretLog

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    from tunnel_wire.flow import Buffer

RECEIVE_SIZE: Final = 256 * 1024
"""Bytes asked of a socket at once."""
_HANDSHAKE: Final = 0x16
"""The first byte of a handshake's record."""
_FIRST_SIZE: Final = HEADER + MOST_CONTENT
"""The longest record that is not encrypted (RFC 8446, section 5.1)."""
_LEFT: Final = "the peer closed the connection during the TLS handshake"


class TlsEnded(Exception):
    """The peer closed TLS properly (close_notify). A connection that ends without it was cut."""


class TlsBroken(Exception):
    """The peer has broken TLS, or says that we have. It is to be told `alert`, unless that is None."""

    def __init__(self, reason: str, alert: int | None) -> None:
        super().__init__(reason)
        self.alert = alert


def strict_context(*, server_side: bool) -> LoggedContext:
    """A context for TLS 1.3 alone, in which a connection that was cut is an error and not an end.

    Python 3.10 to 3.11.3 have OpenSSL take one for the other unless they are told not to.
    """
    context = LoggedContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    return context


class TlsPump:
    """One TLS connection over two memory buffers. Ciphertext in and out, plaintext in and out."""

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
    ) -> None:
        self._in = ssl.MemoryBIO()
        self.feed: Callable[[Buffer], int] = self._in.write
        """Take bytes from the network. (Bound once: a method would be a call more for each read.)"""
        self.output = ssl.MemoryBIO()
        """Bytes for the network, so many as are `pending`; `ciphertext` takes them all, `read` some.

        What a successful `read_into` adds are TLS's own answers to requests for new keys (RFC 8446, section
        4.6.3): nobody else sees these.
        """
        self._ssl: ssl.SSLObject | None = context.wrap_bio(
            self._in, self.output, server_side=server_side, server_hostname=server_hostname
        )
        self._logs = context if isinstance(context, LoggedContext) and context.log_secrets else None
        self._secrets = (b"", b"")
        # With a buffer, read() returns a count; the stubs know only the form that returns bytes.
        self._read = cast("Callable[[int, memoryview], int]", self._ssl.read)
        self.server_side = server_side
        self.heard = False
        """The peer has sent something, TLS or not."""
        self.drained = False
        """Whether the last `read_into` gave all that can be decrypted without more ciphertext. Then there is
        no sense in calling it again, which would cost an exception to say so.
        """
        self._unread = bytearray()
        """Plaintext that was decrypted before anybody asked for it; `read_into` gives it first."""

    def handshake_step(self) -> bool:
        """Go on with the handshake; true when it is complete. Raises `ssl.SSLError`."""
        if self._logs is None:
            return self._step()
        log = SecretLog(self._logs)
        with log:
            done = self._step()
        self._secrets = (log.client or self._secrets[0], log.server or self._secrets[1])
        if done and self.server_side and self.output.pending:
            self._secrets = (b"", b"")  # session tickets: they have used the server's
        return done

    def _step(self) -> bool:
        try:
            self._openssl().do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def agreed(self) -> tuple[str, bytes, bytes] | None:
        """The cipher suite and the secrets of our direction and of the peer's, at the end of the handshake.

        None where they are not known, or where OpenSSL has used them for a message of its own since.
        """
        cipher, (client, server) = self._openssl().cipher(), self._secrets
        if cipher is None or not client or not server or self.output.pending:
            return None
        return (cipher[0], server, client) if self.server_side else (cipher[0], client, server)

    def undelivered(self) -> bytes:
        """Take back what was fed to it and not looked at yet: all that has come behind the handshake."""
        return self._in.read()

    def release(self) -> None:
        """Let go of all that OpenSSL holds: nothing can be asked of it any more."""
        self._ssl, self._secrets = None, (b"", b"")
        self._read = _released
        self._in = self.output = ssl.MemoryBIO()
        self.feed = self._in.write

    def _openssl(self) -> ssl.SSLObject:
        assert self._ssl is not None, "released"
        return self._ssl

    def feed_eof(self) -> None:
        """The network has no more bytes."""
        self._in.write_eof()

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into `buffer`; the bytes written, 0 when more ciphertext is needed.

        Raises `TlsEnded`, or `ssl.SSLError` for anything forged, cut or alerted.
        """
        filled, size = 0, len(buffer)
        self.drained = False
        if self._unread:
            filled = min(size, len(self._unread))
            buffer[:filled] = self._unread[:filled]
            del self._unread[:filled]
            return filled
        try:
            while filled < size:
                count = self._read(size - filled, buffer[filled:] if filled else buffer)
                if not count:  # close_notify; it says so again at the next call
                    break
                filled += count
                # Asking for what is not there costs an exception, which is most of what a small frame costs.
                # With room to spare, it was all of its record.
                if filled < size and not self._in.pending:
                    self.drained = True
                    return filled
        except ssl.SSLWantReadError:
            self.drained = True
            return filled
        except ssl.SSLZeroReturnError:  # the same, after our own close_notify
            pass
        if not filled and size:
            raise TlsEnded
        return filled

    def write(self, buffers: Iterable[Buffer], total: int) -> None:
        """Encrypt buffers of `total` bytes together; `ciphertext` has the result."""
        write = self._openssl().write
        # Else a frame's header and its few bytes would be a record and a call each. Beside more, the header's
        # is little.
        if total <= MOST_CONTENT:
            write(b"".join(buffers))
            return
        for buffer in buffers:
            write(buffer)

    def ciphertext(self) -> bytes:
        """All that is to go to the network now."""
        return self.output.read()

    def close_notify(self) -> None:
        """Queue the alert that ends TLS properly."""
        try:
            self._openssl().unwrap()
        except ssl.SSLError:
            pass

    def end_sending(self) -> None:
        """Queue the alert that ends our direction; the peer's goes on (RFC 8446, section 6.1)."""
        # OpenSSL looks for the peer's alert in the same call, and takes data that waits there for an error.
        early, piece = bytearray(), memoryview(bytearray(MOST_CONTENT))
        try:
            while count := self.read_into(piece):
                early += piece[:count]
        except (TlsEnded, ssl.SSLError):
            pass  # `read_into` meets it again
        self._unread = early
        self.close_notify()

    def unread(self, plaintext: Buffer) -> None:
        """Give back what `read_into` gave: it comes again."""
        self._unread[:0] = plaintext

    @property
    def alpn(self) -> str | None:
        """The protocol that ALPN chose."""
        return self._openssl().selected_alpn_protocol()

    @property
    def peer_certificate(self) -> dict[str, Any] | None:
        """The peer's verified certificate in `getpeercert` form; None or empty without one."""
        return self._openssl().getpeercert()

    @property
    def peer_certificate_der(self) -> bytes | None:
        """The same, in DER."""
        return self._openssl().getpeercert(binary_form=True)


def _released(size: int, buffer: memoryview) -> int:
    raise TlsEnded


async def send_all(sock: socket.socket, data: Buffer) -> None:
    """Send everything on a non-blocking socket. Cancelled, it leaves an unknown part sent. Raises OSError."""
    view = memoryview(data)
    while view:
        try:
            sent = sock.send(view)  # within the slice, compiled code would send twice
            view = view[sent:]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)


async def receive_some(sock: socket.socket, size: int) -> bytes:
    """Wait for bytes on a non-blocking socket; empty at its end. Cancellable without loss. Raises OSError."""
    while True:
        try:
            return sock.recv(size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)


async def handshake(sock: socket.socket, pump: TlsPump) -> None:
    """Complete the TLS handshake over a non-blocking socket.

    Raises `ssl.SSLError` (the alert is sent first), or an OSError when the peer goes away.
    Cancelled, it leaves a connection that can only be closed.
    """
    if pump.server_side:
        pump.feed(await _first_record(sock, pump))
    while True:
        try:
            done = pump.handshake_step()
        except ssl.SSLError:
            # The alert is a courtesy: the peer may have gone, or never read. The kernel takes it at once.
            with contextlib.suppress(OSError):
                sock.send(pump.ciphertext())
            raise
        if data := pump.ciphertext():
            await send_all(sock, data)
        if done:
            return
        received = await receive_some(sock, RECEIVE_SIZE)
        if not received:
            raise ConnectionResetError(_LEFT)
        pump.feed(received)


async def _first_record(sock: socket.socket, pump: TlsPump) -> bytes:
    """All of a ClientHello's record, or what is none.

    OpenSSL takes 40 KiB for a handshake as soon as it is asked to begin: nobody gets that who does not mean
    it.
    """
    record = b""
    while len(record) < HEADER or len(record) < HEADER + int.from_bytes(record[3:5]):
        received = await receive_some(sock, _FIRST_SIZE)
        if not received:
            raise ConnectionResetError(_LEFT)
        pump.heard = True
        record += received
        if record[0] != _HANDSHAKE or len(record) >= _FIRST_SIZE:
            break
    return record
