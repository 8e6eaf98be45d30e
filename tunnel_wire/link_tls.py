"""A link's TLS after its handshake: OpenSSL's at first, ours (`records.py`) from `take_over` on.

Ours is three times as fast with bulk, but what it needs takes 8 MiB, which an agent that has little to carry
can do without: so whoever has not loaded it yet does that once there is bulk. Both see the same bytes on the
wire. To take over means to know the keys and how many records they have been used for; so whole records only
go to OpenSSL, and are counted.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Final

import trio

from tunnel_wire.record_sizes import (
    DATA,
    HEADER,
    KEY_UPDATE,
    MOST_CONTENT,
    MOST_SEALED,
    TAG,
    body_size,
    sealed_size,
)
from tunnel_wire.tls import TlsBroken, TlsEnded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_wire.flow import Buffer
    from tunnel_wire.link_buffers import LinkBuffers
    from tunnel_wire.records import Opener, Sealer
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_RECORDS: Final = "tunnel_wire.records"
BULK: Final = 8 * 1024 * 1024
"""Bytes of plaintext, received and sent together, after which a link's next bulk has it loaded."""
_NOTHING: Final = memoryview(b"")

_loaded = False


def load() -> None:
    """Load it: for a worker thread, since it takes a fraction of a second. Raises ImportError."""
    global _loaded
    import_module(_RECORDS)
    _loaded = True


def loaded() -> bool:
    """Whether that is done: links of this process need not begin with OpenSSL."""
    return _loaded


class LinkTls:
    """Ciphertext in and out, plaintext in and out, for the one link that has this connection."""

    def __init__(self, pump: TlsPump, buffers: LinkBuffers) -> None:
        """Take a pump whose handshake is over."""
        self._pump: TlsPump | None = pump
        self._buffers = buffers
        self._bulk: trio.Event | None = None
        self._sealer: Sealer | None = None
        self._opener: Opener | None = None
        self._queued: bytes = b""
        """Records of our own accord that go out first."""
        self._source = memoryview(pump.undelivered())
        """Ciphertext that nobody has looked at."""
        self._tail: bytes = b""
        """The beginning of a record whose rest has yet to come."""
        self._sealed = 0
        """Records by OpenSSL."""
        self._opened = 0
        self.sent = 0
        """Bytes of plaintext by OpenSSL."""
        self.received = 0
        self._expected = 0
        """Bytes of plaintext in its records, if none of them was a message of TLS's own."""
        self.drained = False
        """Whether the last `read_into` gave all that there was."""
        self.key_updates = 0.0
        """New keys of the other end, or by OpenSSL those that it has asked for, since whoever counts them set
        this to 0.
        """

    # --- who does it ------------------------------------------------------------------------------

    @property
    def taken_over(self) -> bool:
        """Whether OpenSSL has nothing to do with it any more."""
        return self._opener is not None

    def begin(self) -> None:
        """Take over at once, where that costs nothing more."""
        if loaded():
            self.take_over()

    async def go_on_alone(self) -> None:
        """Take over once there is bulk; returns when that is settled. Cancelled, it leaves all as it is."""
        if self._pump is None or self._pump.agreed() is None:
            return
        self._bulk = trio.Event()
        await self._bulk.wait()
        self._bulk = None
        try:
            # An import can't be cancelled: it goes on, and the next link has it.
            await trio.to_thread.run_sync(load, abandon_on_cancel=True)
            why = "" if self.take_over() else "its keys are not known here"
        except Exception as error:  # noqa: BLE001 - not installed, no thread: nothing is worth the link
            why = str(error)
        if why:
            log.info("OpenSSL goes on encrypting a link with bulk, which is slower: %s", why)

    def note_bulk(self) -> None:
        """There is some."""
        if self._bulk is not None and self.received + self.sent >= BULK:
            self._bulk.set()

    def take_over(self) -> bool:
        """Go on without OpenSSL, and let go of what it holds; false where that can't be.

        Not between a `feed` and the end of its `read_into`s.
        """
        pump = self._pump
        if pump is None or self._expected != self.received:
            # A message of TLS's own was among the records: new keys, most likely.
            return False
        agreed = pump.agreed()
        if agreed is None:
            return False
        from tunnel_wire.records import Keys, Opener, Sealer

        suite, own_secret, their_secret = agreed
        try:
            ours, theirs = Keys(suite, own_secret, self._sealed), Keys(suite, their_secret, self._opened)
        except ValueError:
            return False
        self._sealer = Sealer(ours)
        self._opener = Opener(theirs, of_server=not pump.server_side)
        self._pump = None
        pump.release()
        return True

    # --- in ---------------------------------------------------------------------------------------

    def begin_read(self, buffer: memoryview) -> int:
        """Put what was left over of a record at the front of `buffer`; how many bytes that is."""
        tail = self._tail
        size = len(tail)
        if size:
            buffer[:size] = tail
        return size

    def feed(self, ciphertext: memoryview) -> None:
        """Take what begins with what `begin_read` gave. It stays the caller's, who calls `read_into` until
        all of it is `drained`, before anything else is written there.
        """
        self._source = ciphertext
        self._tail = b""

    def read_into(self, buffer: memoryview) -> int:
        """Decrypt into `buffer`; the bytes written. There may be more unless all is `drained`.

        Raises `TlsEnded`, or for anything forged or alerted `TlsBroken`, or OpenSSL's `ssl.SSLError`.
        """
        pump, opener, source = self._pump, self._opener, self._source
        if opener is None:
            assert pump is not None
            if source:
                whole = self._count(source)
                pump.feed(source[:whole])
                self._tail = bytes(source[whole:])
                self._source = _NOTHING
            return self._read_by_openssl(pump, buffer)
        updates, asked = opener.updates, opener.asked
        try:
            size = opener.open(source, buffer)
        except TlsBroken as exc:
            self._source = _NOTHING
            self._give_up(exc.alert)
            raise
        if opener.updates != updates:
            self.key_updates += opener.updates - updates
            if opener.asked != asked:
                self._answer_update()
        if opener.full:
            self._source = source[opener.taken :]
            self.drained = False
            return size
        self._source = _NOTHING
        self._tail = bytes(source[opener.taken :])
        if opener.ended and not size:
            raise TlsEnded
        self.drained = not opener.ended
        return size

    def _read_by_openssl(self, pump: TlsPump, buffer: memoryview) -> int:
        pending = pump.output.pending
        size = pump.read_into(buffer)
        self.received += size
        self.drained = pump.drained
        if pump.output.pending != pending:  # see `TlsPump.output`
            self.key_updates += (pump.output.pending - pending) / KEY_UPDATE
        return size

    def _count(self, source: memoryview) -> int:
        """Bytes of the whole records at its beginning."""
        position, end = 0, len(source)
        while end - position >= HEADER:
            size = body_size(source, position)
            if source[position] != DATA or size > MOST_SEALED:
                return end  # OpenSSL knows how to say so
            if end - position < HEADER + size:
                break
            position += HEADER + size
            self._opened += 1
            self._expected += size - 1 - TAG
        return position

    def _answer_update(self) -> None:
        """One that has yet to go out answers all requests that have come (RFC 8446, section 4.6.3)."""
        if self._sealer is not None and not self._queued:
            self._queued += self._sealer.update()

    def _give_up(self, alert: int | None) -> None:
        if self._sealer is not None and alert is not None:
            self._queued += self._sealer.alert(alert)
        self._sealer = None

    # --- out --------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether TLS has something to say of its own; `end` and `seal` begin with it."""
        return bool(self._queued) if self._pump is None else self._pump.output.pending > 0

    def seal(self, pieces: Iterable[Buffer], total: int) -> Buffer:
        """Encrypt buffers of `total` bytes together, 0 for what is `pending` alone. Not for keeping: what it
        gives may lie where the next call, of any link, puts its own.
        """
        pump, sealer, queued = self._pump, self._sealer, self._queued
        if pump is not None:
            if total:
                pump.write(pieces, total)
                self.sent += total
            return self._collect(pump)
        self._queued = b""
        if sealer is None or not total:
            return queued
        if total <= MOST_CONTENT:
            return queued + sealer.seal_small(pieces) if queued else sealer.seal_small(pieces)
        first = len(queued)
        target, most = self._buffers.sealed, first + sealed_size(total)
        if most > len(target):
            target = memoryview(bytearray(most))
        if first:
            target[:first] = queued
        size = sealer.seal(pieces, target[first:], self._buffers.record)
        return target[: first + size]

    def _collect(self, pump: TlsPump) -> bytes:
        """What OpenSSL has for the network."""
        out = pump.ciphertext()
        position, end = 0, len(out)
        while position < end:
            position += HEADER + body_size(out, position)
            self._sealed += 1
        return out

    def end(self) -> bytes:
        """What is pending, and the alert that ends TLS properly. Raises `ssl.SSLError`."""
        if self._pump is not None:
            self._pump.close_notify()
            return self._pump.ciphertext()
        last, self._queued = self._queued, b""
        if self._sealer is not None:
            last += self._sealer.close_notify()
            self._sealer = None
        return last
