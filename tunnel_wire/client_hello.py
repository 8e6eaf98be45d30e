"""What a TLS ClientHello says in the clear: its server name (RFC 6066, 3), and whether it offers HTTP/2."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HELLO = 16 * 1024
"""Bytes of a ClientHello, records and all. Post-quantum ones take 2 KiB."""
_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME, _HOST_NAME, _ALPN = 22, 1, 0, 0, 16


class NotAHello(ValueError):
    """These bytes do not begin with a TLS ClientHello; the text says why."""


class _Reader:
    """Takes a ClientHello apart; everything beyond its end is an error."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        if len(part) < size:
            raise NotAHello("a length in the ClientHello points past its end")
        self._at += size
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, length_size: int) -> bytes:
        return self.take(self.number(length_size))

    @property
    def left(self) -> bool:
        return self._at < len(self._data)


class Records:
    """Puts the first handshake message of a connection together from its records (RFC 8446, 5.1).

    Each byte is read once, in however small records and pieces they come: whoever sends them must not have us
    work much harder than that takes.
    """

    def __init__(self) -> None:
        self._message = bytearray()
        self._at = 0
        """Bytes of the connection that were read."""
        self._left = 0
        """Bytes of the last record that were not."""

    def client_hello(self, data: bytes | bytearray) -> bytes | None:
        """The body of the ClientHello that `data` begins with; None: more bytes are needed.

        `data` is all that came so far, the same and more each time. Raises NotAHello.
        """
        while self._at < len(data):
            if not self._left:
                self._left = _record_length(data[self._at : self._at + 5], is_first=not self._at)
                if not self._left:
                    break
                self._at += 5
            part = data[self._at : self._at + self._left]
            self._message += part
            self._at += len(part)
            self._left -= len(part)
            message = self._message
            if message[:1] and message[0] != _CLIENT_HELLO:
                raise NotAHello(f"handshake message {message[0]} instead of a ClientHello")
            if len(message) >= 4:
                size = int.from_bytes(message[1:4], "big")
                if size > MAX_HELLO:
                    raise NotAHello(f"a ClientHello of {size} bytes, more than {MAX_HELLO}")
                if len(message) >= 4 + size:
                    return bytes(message[4 : 4 + size])
        if len(data) >= MAX_HELLO:
            raise NotAHello(f"the ClientHello does not end within {MAX_HELLO} bytes")
        return None


def _record_length(header: bytes | bytearray, *, is_first: bool) -> int:
    """Bytes of a handshake record behind its header; 0 if that is not complete yet. Raises NotAHello."""
    if header[0] != _HANDSHAKE:
        raise NotAHello("it is no TLS" if is_first else "another record interrupts the ClientHello")
    if header[1:2] and header[1] != 3:
        raise NotAHello(f"it is no TLS 1.x: version {header[1]}")
    if len(header) < 5:
        return 0
    length = int.from_bytes(header[3:], "big")
    if not 0 < length <= MAX_HELLO:
        raise NotAHello(f"a handshake record of {length} bytes")
    return length


def read_server_name(data: bytes, records: Records | None = None) -> str | None:
    """The server name in the ClientHello that `data` begins with, lower case; "" if it has none.

    None: more bytes are needed; give the same `records` with them. Raises NotAHello.
    """
    message = (records or Records()).client_hello(data)
    if message is None:
        return None
    for kind, body in _extensions(message):
        if kind == _SERVER_NAME:
            return _host_name(body)
    return ""


class Http2Offer:
    """Finds out whether a connection begins with a ClientHello that offers HTTP/2 (RFC 7301, 3.1).

    Such a connection carries many requests, kube-apiserver's to a kubelet for example.
    """

    def __init__(self) -> None:
        self._seen = bytearray()
        self._records = Records()

    def __call__(self, data: bytes) -> bool | None:
        """Whether it does, by the next bytes of the connection; None: more are needed."""
        self._seen += data
        try:
            message = self._records.client_hello(self._seen)
            return None if message is None else b"h2" in _protocols(message)
        except NotAHello:
            return False


def _protocols(message: bytes) -> Iterator[bytes]:
    for kind, body in _extensions(message):
        if kind == _ALPN:
            names = _Reader(_Reader(body).vector(2))
            while names.left:
                yield names.vector(1)


def _extensions(message: bytes) -> Iterator[tuple[int, bytes]]:
    hello = _Reader(message)
    hello.take(2 + 32)  # legacy_version, random (RFC 8446, 4.1.2)
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if not hello.left:
        return
    extensions = _Reader(hello.vector(2))
    while extensions.left:
        yield extensions.number(2), extensions.vector(2)


def _host_name(body: bytes) -> str:
    names = _Reader(_Reader(body).vector(2))
    while names.left:
        kind, name = names.number(1), names.vector(2)
        if kind == _HOST_NAME:
            if not name or not all(0x21 <= byte <= 0x7E for byte in name):
                raise NotAHello("its server name is not a host name")
            return name.decode("ascii").lower()
    return ""
