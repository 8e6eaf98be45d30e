"""One link's HTTP/2, without I/O: bytes and `now` in, events and buffers out.

What is on the wire is plain HTTP/2 (RFC 9113). A connection is one object. Its class has four levels, each
inheriting from the next, and each with parts of its own:

    level                                  adds                                 parts
    OpenerConnection, AnswererConnection   what requests and answers mean
    Connection (here)                      bytes and time come in; it fails     FrameReader
    Receiver                               what the peer's frames mean          LinkWindow
    Carrier                                its streams, and what they queue     Sender, Life, ControlPlane

Calls go down; where a level above has more to do, it overrides (`on_request`, `on_response`, `detach`,
`overdue`). `FrameReader` cuts bytes into frames and tells `Receiver`. `LinkWindow` is what the peer may send
on all streams together, `Sender` what goes out next, `Life` PING and time, and `ControlPlane` h2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.exceptions
from hpack import HPACKError

from tunnel_wire import frames
from tunnel_wire.frame_reader import FrameReader
from tunnel_wire.frames import ErrorCode, Violation
from tunnel_wire.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.events import Event
    from tunnel_wire.flow import Buffer
    from tunnel_wire.limits import WireLimits
    from tunnel_wire.session import Stream


class ConnectionFailed(Exception):
    """The peer broke the protocol, or the link fell silent: send what is due (a GOAWAY), then close the
    link.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({frames.error_name(code)})")
        self.code = code
        self.reason = reason


class Connection(Receiver):
    """One link's HTTP/2 state. Feed it with `receive`, send what `take` gives, call `tick` when `deadline`
    comes.
    """

    __slots__ = ("_failed", "_reader", "take")

    def __init__(self, *, client: bool, limits: WireLimits, now: float) -> None:
        super().__init__(client=client, limits=limits, now=now)
        self._reader: FrameReader | None = FrameReader(self, limits, preface=not client)
        self._failed: ConnectionFailed | None = None
        self.take: Callable[[int], list[Buffer]] = self._sender.take
        """What to send next: as `Sender.take`. (Bound once: it is called for each frame.)"""

    def receive(self, data: memoryview, now: float) -> list[Event]:
        """Take bytes from the peer. The events' data are views of `data`.

        Raises `ConnectionFailed`: at once if nothing came before the failure, else at the next call here or
        of `tick`, which is due then. What is due to be sent includes the GOAWAY.
        """
        if self._failed is not None:
            raise self._failed
        reader, failed = self._reader, None
        assert reader is not None
        self._now = self._life.last_received = now
        events = self._events = []
        try:
            reader.feed(data)
            if self._sender.caused > self.limits.max_queued_control:
                raise Violation(
                    ErrorCode.ENHANCE_YOUR_CALM, "the peer causes more control frames than it reads"
                )
        except Violation as violation:
            failed = self._fail(violation.code, violation.reason)
        except h2.exceptions.ProtocolError as exc:
            failed = self._fail(*_told(exc))
        if failed is not None and not events:
            raise failed
        return events

    def deadline(self) -> float:
        """When `tick` is due."""
        return self._life.due if self._failed is None else self._now

    def tick(self, now: float) -> None:
        """Do what is due at `now`. Raises `ConnectionFailed`, also when the peer has been silent for too
        long.
        """
        if self._failed is not None:
            raise self._failed
        self._now = now
        life = self._life
        if life.silent(now):
            raise self._fail(ErrorCode.NO_ERROR, f"nothing received for {now - life.last_received:.0f} s")
        for stream in life.expired(now):
            self.overdue(stream)
        life.keep(now)

    def overdue(self, stream: Stream) -> None:
        """The stream's deadline has come: it is reset."""
        stream.reset(stream.pending_reset if stream.pending_reset is not None else ErrorCode.CANCEL)

    @property
    def violated(self) -> bool:
        """The peer has broken the protocol, or says that we have."""
        return self._failed is not None and self._failed.code != ErrorCode.NO_ERROR

    def take_or_ask(self, size: int, clock: Callable[[], float]) -> list[Buffer]:
        """As `take`; when nothing is due but the receipt for what was sent, the PING that asks for it.

        Only then is the `clock` (seconds) looked at: most calls need no time.
        """
        out = self.take(size)
        if not out and self._life.sent and self._life.ask_for_receipt(clock()):
            out = self.take(0)
        return out

    def probe(self, now: float) -> None:
        """Ask the peer for a sign of life, if no question is open already."""
        self._life.probe(now)

    def note_key_updates(self, count: float, now: float) -> None:
        """The peer has changed its keys so often (RFC 8446, section 4.6.3), or while OpenSSL does that, has
        had ours changed (`TlsPump.output`; its own alone are not to be seen then): they count as frames.
        Raises `ConnectionFailed`.
        """
        self._now = now
        try:
            self._count_flood("TLS key updates", count)
        except Violation as exc:
            failed = self._fail(exc.code, exc.reason)
        else:
            return
        raise failed

    def dispose(self) -> None:
        """Nothing comes or goes any more. Its parts let go of it, so that no collector has to find them."""
        self._reader = None
        self._h2.dispose()
        self._sender.dispose()
        self._life.dispose()
        if self._failed is not None:
            # With its traceback it knows the frames that it came through.
            self._failed.__traceback__ = None

    def _fail(self, code: int, reason: str) -> ConnectionFailed:
        """It is over: what to raise, now or at the next call."""
        if code != ErrorCode.NO_ERROR:
            # It would do the same again, on the next link with the same streams.
            self.resumes = False
        self._h2.clear_outbound_data_buffer()
        self.close(code, reason)
        self._failed = failed = ConnectionFailed(code, reason)
        return failed


def _told(exc: h2.exceptions.ProtocolError) -> tuple[int, str]:
    """The code and the words for what h2 found wrong."""
    match exc:
        case h2.exceptions.NoSuchStreamError():
            # Its text is the stream's number alone.
            return exc.error_code, f"a frame on stream {exc.stream_id}, which is not open"
        case h2.exceptions.ProtocolError(error_code=1) if isinstance(exc.__cause__, HPACKError):
            # h2 says PROTOCOL_ERROR (1); the two ends' tables are out of step (RFC 9113, section 4.3).
            return ErrorCode.COMPRESSION_ERROR, str(exc)
    return exc.error_code, str(exc) or type(exc).__name__
