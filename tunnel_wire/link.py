"""One link over a real socket: its reader, its pump, its clock.

A byte's way out: whoever queued it calls `pump`, which takes frames from the connection, encrypts and sends
them, all synchronously; what the kernel did not take waits until the socket calls (`readiness.py`). A byte's
way in: the socket calls, the link decrypts, the connection parses, and the stream's face gets the payload
before the link reads on. Neither way waits for anybody.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import trio

from tunnel_wire.connection import Connection, ConnectionFailed
from tunnel_wire.data_received import DataReceived
from tunnel_wire.events import (
    Answered,
    DrainReceived,
    EndReceived,
    Event,
    HelloReceived,
    RoomGained,
    StreamRequested,
    StreamReset,
)
from tunnel_wire.expiry import Expiry
from tunnel_wire.farewell import hang_up
from tunnel_wire.flow import SEGMENT
from tunnel_wire.frame_size import FrameSize
from tunnel_wire.frames import ErrorCode
from tunnel_wire.link_buffers import ROOM, of_this_loop
from tunnel_wire.link_tls import LinkTls
from tunnel_wire.readiness import READABLE, WRITABLE, Watch, watch
from tunnel_wire.sockets import NOT_SENT_LOW_WATER, prepare, unacknowledged, unsent
from tunnel_wire.stream_state import EndCause
from tunnel_wire.timers import Timer
from tunnel_wire.tls import TlsBroken, TlsEnded
from tunnel_wire.turns import SHORT, turns_of_this_loop

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from tunnel_wire.flow import Buffer
    from tunnel_wire.hello import Hello
    from tunnel_wire.session import Stream
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_LINK_TURNS: Final = 4
"""Turns that a link's reader gets at once where they are short: it reads for all of its streams, and their
sockets have turns of their own for what it leaves them.
"""
_READ_TIME: Final = 0.005
"""Seconds after which a turn was too long, and the next is of less: frames of a few bytes are dear."""
_TICK: Final = 0.001
"""Shortest time in seconds between two looks at the clock."""
_SHORT_READ: Final = 4096
"""A read below this has most likely emptied the socket: being called costs less than finding out."""
_FAREWELL: Final = 1.0
"""Seconds that the other end gets to hear which streams end for good with the link."""
_LONG_FAREWELL: Final = 5.0
"""The same where the process stops, as long as the other end takes what is before it: a slow line is full."""
_COMPLAINT: Final = 0.25
"""The same for what it did wrong."""


class LinkEnded(Exception):
    """The link is over. `str()` says why; `clean` is true when one of the ends meant it."""

    def __init__(self, reason: str, *, clean: bool = False) -> None:
        super().__init__(reason)
        self.clean = clean


class Link:
    """A connection's socket and TLS. Create it after the handshake, then `run` it."""

    def __init__(
        self,
        sock: socket.socket,
        pump: TlsPump,
        connection: Connection,
        *,
        on_hello: Callable[[Hello | None], None] = lambda hello: None,
        on_drain: Callable[[str, str], None] = lambda reason, detail: None,
        on_request: Callable[[Stream], None] | None = None,
    ) -> None:
        self.connection = connection
        connection.output_ready = self.pump
        self._sock = prepare(sock, link=True)
        self._on_hello = on_hello
        self._on_drain = on_drain
        self._on_request = on_request
        self._pumping = False
        self._unsent: Buffer = b""
        self._frame_size = FrameSize(self._sock, connection.limits)
        self._watch: Watch | None = None
        self._buffers = of_this_loop()
        self._tls = LinkTls(pump, self._buffers)
        self._turns = turns_of_this_loop()
        self._most_read = SEGMENT
        """Bytes that a turn of the reader takes at most."""
        self._waits_to_send = False
        """For the kernel, or for its next turn."""
        self._timer = Timer(self._on_time, self._on_defect)
        self._time = trio.lowlevel.current_clock().current_time
        """As `trio.current_time`, without looking for the clock each time."""
        self._scope = trio.CancelScope()
        self._ending: LinkEnded | None = None
        self._for_good = False
        """No other link will go on with its streams."""
        self.hello_received = trio.Event()

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Carry frames until the link ends. Always raises: `LinkEnded`, or trio.Cancelled.

        Either way the socket is closed then, and the streams that were attached are suspended, or have been
        told. Cancelled, they are reset: whoever cancels a link ends all that it served. The other end gets a
        second to hear of that, even then.
        """
        try:
            try:
                self._watch = watch(self._sock, self._on_ready, self._on_defect, READABLE)
                with self._scope:
                    self._tls.begin()
                    # What came with the end of the handshake is in TLS already.
                    self._receive(self._time())
                    self._on_time()
                    await self._tls.go_on_alone()
                    await trio.sleep_forever()
            except Exception:
                # A defect, of ours or of a callback, costs this link and not the process.
                log.exception("a link failed")
                self._on_defect()
            if self._ending is None:
                # Whoever cancelled stands outside: let trio say so.
                await trio.lowlevel.checkpoint_if_cancelled()
            ending = self._ending or LinkEnded("the link was cancelled")
            # A new one: with its traceback it knows this frame, which knows the link.
            raise LinkEnded(str(ending), clean=ending.clean)
        finally:
            self._for_good |= self._ending is None
            if self._watch is not None:
                self._watch.close()
            self._timer.close()
            patience, longest, last = 0.0, 0.0, b""
            try:
                patience, longest = self._patience()
                last = self._last_words()
            except Exception:
                # A defect here as well: the streams must hear of the end all the same.
                log.exception("a link's last words failed")
            self._end_streams()
            # Who made the link knows it: in a circle, both would stay until a collector comes by.
            self._on_hello, self._on_drain, self._on_request = _unheard, _unheard, None
            with self._sock, suppress(OSError):
                if patience:
                    await hang_up(self._sock, last, patience, longest)
                else:
                    self._sock.send(last)

    def close(self, reason: str, *, for_good: bool = False) -> None:
        """End the link now; `run` raises `LinkEnded` with this reason. For good: its streams with it."""
        self._for_good |= for_good
        self._end(LinkEnded(reason, clean=True))

    def be_last(self) -> None:
        """However the link ends from now on, it is for good."""
        self._for_good = True

    @property
    def is_last(self) -> bool:
        """No other link will go on with its streams."""
        return self._for_good

    @property
    def ended(self) -> bool:
        """The link is over, or about to be."""
        return self._ending is not None

    def _end(self, ending: LinkEnded) -> None:
        if self._ending is None:
            self._ending = ending
            self._scope.cancel()

    def _on_defect(self) -> None:
        # What was received may not have been delivered.
        self._for_good = True
        self._end(LinkEnded("an internal error; the log has more"))

    def _on_ready(self, events: int) -> None:
        if self._ending is not None:
            # `run` has yet to hear of it.
            return
        if events & WRITABLE:
            self._go_on_sending()
        if events & ~WRITABLE:
            self._read()

    def _patience(self) -> tuple[float, float]:
        """Seconds that the other end gets to hear how the link ends: in which it must take something, and in
        all; 0: what the kernel takes at once.
        """
        connection = self.connection
        # Who is cancelled with the link may have reset its streams by now: that waits, or is on its way.
        lasts = connection.load or self._unsent or unacknowledged(self._sock)
        if self._for_good and connection.resumes and lasts:
            return _FAREWELL, _LONG_FAREWELL if self._ending is None else _FAREWELL
        return (_COMPLAINT, _COMPLAINT) if connection.violated else (0.0, 0.0)

    def _last_words(self) -> bytes:
        """What is unsent, resets of the streams that must not be resumed, GOAWAY and close_notify."""
        connection, tls = self.connection, self._tls
        last = bytes(self._unsent)
        with suppress(ssl.SSLError):
            if self._for_good and connection.resumes:
                connection.reset_all(ErrorCode.CANCEL)
            if self._ending is not None and self._ending.clean:
                connection.close()
            if out := connection.take(0):
                last += bytes(tls.seal(out, sum(map(len, out))))
            last += tls.end()
        return last

    def _end_streams(self) -> None:
        self.connection.output_ready = _unheard
        session = self.connection.session
        if session is not None:
            # Cancelled: its streams' users are, too, if they are not told first.
            cause = EndCause.STOPPED if self._ending is None else EndCause.LINK_LOST
            now = trio.current_time()
            for stream in session.lose_link(self.connection, now, for_good=self._for_good, cause=cause):
                if stream.face is not None:
                    stream.face.on_reset()
            if session.suspended:
                Expiry(session)
        self.connection.dispose()

    # --- in ---------------------------------------------------------------------------------------

    def _read(self) -> None:
        """One turn: the socket calls again while there is more."""
        sock, tls, buffer = self._sock, self._tls, self._buffers.ciphertext
        now = self._time()
        limit = min(_LINK_TURNS * self._turns.size, self._most_read) + ROOM
        try:
            size, more = 0, True
            begun = tls.begin_read(buffer)
            rest = buffer[begun:] if begun else buffer
            try:
                # What comes in small pieces is handled in large ones.
                while more and size < limit:
                    got = sock.recv_into(rest[size:] if size else rest, limit - size)
                    size += got
                    more = got >= _SHORT_READ
            except BlockingIOError:
                if not size:
                    return
            if not size:
                self._end(LinkEnded("the connection was cut"))
                return
            tls.feed(buffer[: begun + size])
            self._receive(now)
            # Less is no bulk, unless it is all that was allowed.
            if size >= min(SHORT, limit):
                self._note_read(size, now)
        except OSError as exc:
            self._end(_lost(exc))

    def _note_read(self, size: int, began: float) -> None:
        """A turn's worth came, and has been dealt with."""
        now = self._time()
        self._turns.note_bulk(now)
        self._tls.note_bulk()
        if now - began > _READ_TIME:
            self._most_read = size // 4
        else:
            # What was dear once will be again: by small steps, so that no turn is much too long.
            self._most_read = min(max(self._most_read, 2 * size), SEGMENT)

    def _receive(self, now: float) -> None:
        """Decrypt and dispatch everything that is in TLS, then send what that made due."""
        buffers, tls = self._buffers, self._tls
        connection = self.connection
        try:
            while True:
                size = tls.read_into(buffers.plaintext)
                if tls.key_updates:
                    connection.note_key_updates(tls.key_updates, now)
                    tls.key_updates = 0.0
                for event in connection.receive(buffers.plaintext[:size], now):
                    if type(event) is DataReceived:
                        face = event.stream.face
                        if face is not None:
                            face.on_data(event.data)
                    else:
                        self._dispatch(event)
                if tls.drained:
                    break
        except ConnectionFailed as failure:
            self._end(LinkEnded(str(failure)))
        except TlsEnded:
            self._end(LinkEnded("the other end closed the link", clean=True))
        except TlsBroken as broken:
            self._end(LinkEnded(f"TLS: {broken}"))
        except ssl.SSLError as exc:
            self._end(_lost(exc))
        else:
            self.pump()

    def _dispatch(self, event: Event) -> None:
        match event:
            case RoomGained():
                if event.stream.face is not None:
                    event.stream.face.on_room()
            case EndReceived():
                if event.stream.face is not None:
                    event.stream.face.on_end()
            case StreamReset():
                if event.stream.face is not None:
                    event.stream.face.on_reset()
            case Answered():
                if event.stream.face is not None:
                    event.stream.face.on_answer()
            case StreamRequested():
                if self._on_request is not None:
                    self._on_request(event.stream)
            case HelloReceived():
                self.hello_received.set()
                self._on_hello(event.hello)
            case DrainReceived():
                self._on_drain(event.reason, event.detail)
            case DataReceived():  # pragma: no cover - dispatched by the caller
                pass

    # --- out --------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Send what is due and what the kernel takes, now. Not re-entrant: the outer call goes on instead."""
        if self._pumping or self._ending is not None:
            return
        self._pumping = True
        try:
            self._pump()
        except OSError as exc:
            self._end(_lost(exc))
        finally:
            self._pumping = False
        due = self.connection.deadline()
        if due < self._timer.due:
            self._timer.set(due)

    def _pump(self) -> None:
        connection, tls, sock, frame_size = self.connection, self._tls, self._sock, self._frame_size
        turn = self._turns.size
        left = turn + ROOM  # what is framed for one turn goes out in one
        while True:
            if not self._unsent:
                # A frame costs calls at both ends: where turns are short, it may have two of them.
                out = connection.take_or_ask(min(frame_size.target, 2 * turn), self._time)
                framed = 0
                for piece in out:  # where it is compiled, less than sum() and map()
                    framed += len(piece)
                if framed:
                    frame_size.framed = framed
                elif not tls.pending:  # an answer to the other end's new keys
                    return
                sealed = tls.seal(out, framed)
            else:
                sealed = self._unsent
            size = len(sealed)
            try:
                sent = sock.send(sealed)
            except BlockingIOError:
                sent = 0
            left -= sent
            if sent == size:
                self._unsent = b""
            elif self._unsent:
                self._unsent = memoryview(self._unsent)[sent:]
            else:
                # Where it lies the next one will: whatever link has that.
                self._unsent = bytes(memoryview(sealed)[sent:])
            # What the kernel holds, no small write can pass: it is let drain before there is more.
            full = self._unsent or (size > NOT_SENT_LOW_WATER and unsent(sock) > frame_size.low_water)
            if not full and frame_size.framed >= frame_size.target:
                frame_size.note_taken()
            if full or left <= 0:
                self._wait_to_send(blocked=bool(full))
                return

    def _wait_to_send(self, *, blocked: bool) -> None:
        now = self._time()
        if blocked:
            self._frame_size.note_blocked(now)
        self._turns.note_bulk(now)
        self._tls.note_bulk()
        self._waits_to_send = True
        if self._watch is not None:
            self._watch.want(READABLE | WRITABLE)

    def _go_on_sending(self) -> None:
        """The kernel takes more, or it is the link's turn again."""
        self._frame_size.note_called(self._time())
        self._waits_to_send = False
        self.pump()
        if not self._waits_to_send and self._watch is not None:
            self._watch.want(READABLE)

    def _on_time(self) -> None:
        now = trio.current_time()
        try:
            self.connection.tick(now)
        except ConnectionFailed as exc:
            self._end(LinkEnded(str(exc) if exc.code else exc.reason))
            return
        self.pump()
        # Rounding can leave a deadline a hair before the time at which it was met.
        self._timer.set(max(self.connection.deadline(), now + _TICK))


def _lost(exc: OSError) -> LinkEnded:
    if isinstance(exc, ssl.SSLError):
        return LinkEnded(f"TLS: {exc.reason or exc}")
    return LinkEnded(f"the connection was lost: {exc.strerror or exc}")


def _unheard(*said: object) -> None:
    pass
