"""TLS 1.3's records (RFC 8446, section 5), sealed from and opened into the caller's buffers.

OpenSSL, as Python's ssl gives it, takes bytes into buffers of its own and gives them out of others: per
gigabyte that is as much work as the cipher. `cryptography` has AEADs that write where they are told, and a
newer OpenSSL beneath. The handshake, and all that decides who is at the other end, stays OpenSSL's
(`tls.py`); what is done here is to protect and to check what follows, by the secrets agreed on there.
"""

from __future__ import annotations

import hmac
import ssl
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from tunnel_wire.record_sizes import (
    DATA,
    HEADER,
    MOST_CONTENT,
    MOST_SEALED,
    OVERHEAD,
    TAG,
    body_size,
)
from tunnel_wire.tls import TlsBroken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tunnel_wire.flow import Buffer

_ALERT: Final = 21
_HANDSHAKE: Final = 22

_NEW_SESSION_TICKET: Final = 4
_KEY_UPDATE: Final = 24
_UPDATE_SIZE: Final = 5

_CLOSE_NOTIFY: Final = 0
_UNEXPECTED_MESSAGE: Final = 10
_BAD_RECORD_MAC: Final = 20
_RECORD_OVERFLOW: Final = 22
_ILLEGAL_PARAMETER: Final = 47
_DECODE_ERROR: Final = 50
_USER_CANCELED: Final = 90
_FATAL: Final = 2
_LATER_ALERTS: Final = {
    109: "missing extension",
    116: "certificate required",
    120: "no application protocol",
}
"""Those that Python's ssl has no names for."""

_RECORDS_A_KEY: Final = 1 << 24
"""AES-GCM is safe for 2^24.5 full records (section 5.5): new keys come after 2^24, 256 GiB at the most."""
_MOST_UPDATES: Final = 16
"""KeyUpdates taken in one call, whose caller counts them: each costs as much as opening 100 KiB."""
_MOST_EMPTY: Final = 32
"""Records in a row without content, as OpenSSL has it, and messages of no use here: they are free for the
sender only.
"""

_Aead = AESGCM | ChaCha20Poly1305
SUITES: Final[dict[str, tuple[Callable[[bytes], _Aead], int, str]]] = {
    "TLS_AES_128_GCM_SHA256": (AESGCM, 16, "sha256"),
    "TLS_AES_256_GCM_SHA384": (AESGCM, 32, "sha384"),
    "TLS_CHACHA20_POLY1305_SHA256": (ChaCha20Poly1305, 32, "sha256"),
}
"""By the name in RFC 8446, B.4: the AEAD, the bytes of its key, and the hash."""


def expand_label(secret: bytes, label: str, size: int, digest: str) -> bytes:
    """HKDF-Expand-Label with an empty context (section 7.1), for what one block of the hash holds."""
    name = b"tls13 " + label.encode("ascii")
    info = size.to_bytes(2) + bytes([len(name)]) + name + b"\0"
    return hmac.digest(secret, info + b"\1", digest)[:size]


class Keys:
    """One direction's secret, and what follows from it (sections 7.2 and 7.3)."""

    def __init__(self, suite: str, secret: bytes, records: int = 0) -> None:
        """Take how many records OpenSSL has used them for. Raises ValueError for a suite not to be had."""
        if suite not in SUITES:
            raise ValueError(f"{suite} is not known here")
        self._make, self._size, self._digest = SUITES[suite]
        self._secret = secret
        self.records = records
        """What they have been used for."""
        try:
            self._derive()
        except UnsupportedAlgorithm as error:  # FIPS has no ChaCha20
            raise ValueError(f"{suite}: {error}") from None

    def _derive(self) -> None:
        self.aead: _Aead = self._make(expand_label(self._secret, "key", self._size, self._digest))
        self.iv = int.from_bytes(expand_label(self._secret, "iv", 12, self._digest))

    def nonce(self) -> bytes:
        """The next record's (section 5.3). Whatever becomes of that: none is given twice."""
        nonce = (self.iv ^ self.records).to_bytes(12)
        self.records += 1
        return nonce

    def update(self) -> None:
        """Go on to the next generation."""
        self._secret = expand_label(self._secret, "traffic upd", len(self._secret), self._digest)
        self._derive()
        # Last: should any of that fail, the old keys have not begun anew.
        self.records = 0


class Sealer:
    """What protects our direction."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def seal(self, pieces: Iterable[Buffer], target: memoryview, scratch: memoryview) -> int:
        """Write the records of these bytes into `target`; how many bytes that took, see
        `record_sizes.sealed_size`.

        `scratch` has room for a record's content and its type.
        """
        written, filled = 0, 0
        for piece in pieces:
            view = memoryview(piece)
            start, size = 0, len(view)
            while start < size:
                count = min(size - start, MOST_CONTENT - filled)
                scratch[filled : filled + count] = view[start : start + count]
                filled += count
                start += count
                if filled == MOST_CONTENT:
                    written += self._seal(filled, target[written:], scratch)
                    filled = 0
        if filled:
            written += self._seal(filled, target[written:], scratch)
        if self._keys.records >= _RECORDS_A_KEY:
            update = self.update()
            target[written : written + len(update)] = update
            written += len(update)
        return written

    def seal_small(self, pieces: Iterable[Buffer]) -> bytes:
        """The one record of so few bytes as fit into it: for messages, half the work of `seal`."""
        record = self._record(DATA, b"".join(pieces))
        return record + self.update() if self._keys.records >= _RECORDS_A_KEY else record

    def _seal(self, size: int, target: memoryview, scratch: memoryview) -> int:
        scratch[size] = DATA
        header, end = _header(size), size + OVERHEAD
        target[:HEADER] = header
        self._keys.aead.encrypt_into(self._keys.nonce(), scratch[: size + 1], header, target[HEADER:end])
        return end

    def _record(self, kind: int, content: bytes) -> bytes:
        header = _header(len(content))
        return header + self._keys.aead.encrypt(self._keys.nonce(), content + bytes((kind,)), header)

    def alert(self, alert: int) -> bytes:
        """A fatal alert."""
        return self._record(_ALERT, bytes((_FATAL, alert)))

    def close_notify(self) -> bytes:
        """The alert that ends our direction properly."""
        return self._record(_ALERT, bytes((1, _CLOSE_NOTIFY)))

    def update(self) -> bytes:
        """Go on to new keys; the record that says so (section 4.6.3)."""
        record = self._record(_HANDSHAKE, bytes((_KEY_UPDATE, 0, 0, 1, 0)))
        self._keys.update()
        return record


def _header(content: int) -> bytes:
    """Of a record with so many bytes of content."""
    sealed = content + 1 + TAG
    return bytes((DATA, 3, 3, sealed >> 8, sealed & 255))


class Opener:
    """What checks the other end's direction."""

    def __init__(self, keys: Keys, *, of_server: bool) -> None:
        """Take whose keys these are."""
        self._keys = keys
        self._of_server = of_server
        self._empty = 0
        self.taken = 0
        """Bytes of the source that the last `open` has dealt with."""
        self.full = False
        """Whether it stopped before its source was used up."""
        self.updates = 0
        """KeyUpdates so far."""
        self.asked = 0
        """Those that ask for one of ours (section 4.6.3)."""
        self.ended = False
        """The other end has closed its direction: nothing counts that comes behind (section 6.1)."""

    def open(self, source: memoryview, target: memoryview) -> int:
        """Write the content of the source's whole records into `target`; how many bytes that is.

        Raises TlsBroken; what was written before must not be used then.
        """
        keys = self._keys
        position, filled, end, room = 0, 0, len(source), len(target)
        last = self.updates + _MOST_UPDATES
        self.full = False
        while end - position >= HEADER and not self.ended:
            body = position + HEADER
            size = _checked_size(source, position)
            after = body + size
            if after > end:
                break
            if filled + size - TAG > room or self.updates >= last:
                self.full = True
                break
            kind_at = filled + size - TAG - 1
            try:
                keys.aead.decrypt_into(
                    keys.nonce(), source[body:after], source[position:body], target[filled : kind_at + 1]
                )
            except InvalidTag:
                raise TlsBroken("bad record mac", _BAD_RECORD_MAC) from None
            position = after
            if not target[kind_at]:  # padding (section 5.4); byte by byte, a record would take 0.7 ms
                kind_at = filled + len(bytes(target[filled:kind_at]).rstrip(b"\0")) - 1
                if kind_at < filled:
                    raise TlsBroken("a record without a type", _UNEXPECTED_MESSAGE)
            kind, content = target[kind_at], kind_at - filled
            if content > MOST_CONTENT:
                raise TlsBroken("record overflow", _RECORD_OVERFLOW)
            if kind != DATA:
                self._take_message(kind, bytes(target[filled:kind_at]))
            elif content:
                self._empty = 0
                filled = kind_at
            else:
                self._count_empty()
        self.taken = position
        return filled

    def _count_empty(self) -> None:
        self._empty += 1
        if self._empty > _MOST_EMPTY:
            raise TlsBroken("too many empty records", _UNEXPECTED_MESSAGE)

    def _take_message(self, kind: int, content: bytes) -> None:
        if kind == _ALERT and content:
            self._take_alert(content)
        elif kind == _HANDSHAKE and content:
            self._take_handshake(content)
        else:
            raise TlsBroken("unexpected message", _UNEXPECTED_MESSAGE)

    def _take_alert(self, content: bytes) -> None:
        if len(content) != 2:
            raise TlsBroken("a malformed alert", _DECODE_ERROR)
        if content[1] == _CLOSE_NOTIFY:
            self.ended = True
        elif content[1] == _USER_CANCELED:
            self._count_empty()
        else:
            raise TlsBroken(f"alert {_alert_name(content[1])}", None)

    def _take_handshake(self, content: bytes) -> None:
        """Messages that may follow a handshake (section 4.6). One in several records is refused: an honest
        peer's are far shorter than one.
        """
        at, end = 0, len(content)
        while at < end:
            after = at + 4 + int.from_bytes(content[at + 1 : at + 4])
            if end < after:
                raise TlsBroken("a message in several records", _UNEXPECTED_MESSAGE)
            if content[at] == _KEY_UPDATE:
                if after < end:
                    raise TlsBroken("something behind a key update", _UNEXPECTED_MESSAGE)
                self._take_update(content[at:])
            elif content[at] == _NEW_SESSION_TICKET and self._of_server:
                self._count_empty()
            else:
                raise TlsBroken("unexpected message", _UNEXPECTED_MESSAGE)
            at = after

    def _take_update(self, message: bytes) -> None:
        if len(message) != _UPDATE_SIZE:
            raise TlsBroken("a malformed key update", _DECODE_ERROR)
        if message[4] > 1:
            raise TlsBroken("a key update that asks for nonsense", _ILLEGAL_PARAMETER)
        self.updates += 1
        self.asked += message[4]
        self._keys.update()


def _alert_name(alert: int) -> str:
    """In the words of section 6, and of OpenSSL: what an alert says of a certificate is read from these."""
    try:
        name = ssl.AlertDescription(alert).name.removeprefix("ALERT_DESCRIPTION_")
    except ValueError:
        return _LATER_ALERTS.get(alert, str(alert))
    return name.lower().replace("_", " ")


def _checked_size(source: memoryview, at: int) -> int:
    """`body_size` of the record that begins there. Raises TlsBroken for what is none."""
    if source[at] != DATA:
        raise TlsBroken("unexpected message", _UNEXPECTED_MESSAGE)
    size = body_size(source, at)
    if size > MOST_SEALED:
        raise TlsBroken("record overflow", _RECORD_OVERFLOW)
    if size <= TAG:
        raise TlsBroken("a record too short", _DECODE_ERROR)
    return size
