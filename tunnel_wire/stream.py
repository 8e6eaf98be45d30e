"""A tunnelled connection as its users see it: a half-closeable trio stream, and the answerer's incoming
request.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import trio

from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.exclusive import Exclusive
from tunnel_wire.frames import ErrorCode
from tunnel_wire.stream_state import LOST, EndCause, State
from tunnel_wire.turns import RECEIVED, SENT, Messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.answerer import AnswererConnection
    from tunnel_wire.flow import Buffer
    from tunnel_wire.opener import OpenerConnection
    from tunnel_wire.session import Session, Stream


class TunnelStream(trio.abc.HalfCloseableStream):
    """A stream that is open. Half-close is END_STREAM; a reset at either end is BrokenResourceError here.

    Cancelling one of its methods never damages the link, nor the stream's other direction.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        stream.face = self
        self._closed = False
        self._taken = 0
        """Bytes of the first piece in `incoming.queue` that are consumed."""
        self._messages = Messages()
        self._room = trio.Event()
        self._arrival = trio.Event()
        self._sending = Exclusive("another task is sending on this stream")
        self._receiving = Exclusive("another task is receiving on this stream")
        self.on_broken: Callable[[], None] | None = None
        """Called when the peer resets the stream or the link is lost, though nobody waits for it here."""

    # --- trio's stream ----------------------------------------------------------------------------

    async def send_all(self, data: Buffer) -> None:
        """Queue and send all of `data`, waiting for the peer's credit.

        Raises BrokenResourceError when the stream was reset or its link lost, ClosedResourceError after
        `aclose` or `send_eof`. Cancelled, an unknown part of `data` has been sent and the stream still works.
        """
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            view = memoryview(data).cast("B")
            while view:
                room = await self.wait_room()
                part = bytes(view[:room])
                view = view[room:]
                self.write(part)
                self.flush()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the peer's credit allows a byte. Raises as `send_all`."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            await self.wait_room()

    async def send_eof(self) -> None:
        """End our direction behind what was sent; the other goes on. Raises as `send_all`."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            self.end()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes as they come; empty once the peer has ended its direction.

        Raises BrokenResourceError when the stream was reset, after the data before it, and
        ClosedResourceError after `aclose`. Cancelled, nothing is lost.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            await trio.lowlevel.checkpoint()
            data = await self.wait_arrival()
            if data is None:
                return b""
            if max_bytes is not None:
                data = data[:max_bytes]
            self.took(len(data))
            return bytes(data)

    async def aclose(self) -> None:
        """Close: our direction ends behind what was sent; data that still comes is answered with a reset.

        Never waits but for a checkpoint. With received data unread it is a reset, as for TCP.
        """
        self.close()
        await trio.lowlevel.checkpoint()

    def release(self) -> Stream:
        """Give the stream to another face; this object is closed, and the stream is not."""
        self._closed = True
        self.on_broken = None
        self._wake()
        return self._stream

    def share(self) -> None:
        """Many requests share it: when its link is lost it waits for `resume_grace_pooled` only."""
        self._stream.is_pooled = True

    # --- the same without waiting -----------------------------------------------------------------

    @property
    def end_cause(self) -> EndCause | None:
        """How the stream came to be closed; None while it is not."""
        return self._stream.end_cause

    def room(self) -> int:
        """Bytes that `write` takes now."""
        return self._stream.room()

    def write(self, data: Buffer) -> None:
        """Queue at most `room()` bytes, which must not change before their receipt. `flush` sends them."""
        self._messages.note(SENT, len(data), trio.current_time())
        self._stream.write(data)

    def flush(self) -> None:
        """Send what is queued, as far as turns, credit and the kernel allow."""
        self._stream.flush()

    def end(self) -> None:
        """END_STREAM behind what was written."""
        self._stream.write_end()
        self._stream.flush()

    def reset(self, code: int = ErrorCode.CANCEL, *, behind_data: bool = False) -> None:
        """Reset the stream: at once, or behind what was written."""
        if behind_data:
            self._stream.reset_behind_data(code, trio.current_time())
        else:
            self._stream.reset(code)
        self._stream.flush()
        self._wake()

    def close(self) -> None:
        """What `aclose` does, without the checkpoint."""
        self._closed = True
        self.on_broken = None
        self._stream.abandon(trio.current_time())
        self._stream.flush()
        self._wake()

    async def wait_room(self) -> int:
        """Wait until `room()` is more than 0, and return it. Raises BrokenResourceError,
        ClosedResourceError.
        """
        while True:
            self._check_sendable()
            if room := self._stream.room():
                return room
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    async def wait_arrival(self) -> memoryview | None:
        """Wait for received bytes, and look at the first piece; None at the peer's end.

        The bytes stay until `took`. Raises BrokenResourceError, ClosedResourceError.
        """
        stream = self._stream
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if stream.incoming.queue:
                return memoryview(stream.incoming.queue[0])[self._taken :]
            if stream.incoming.end is not None and not stream.incoming.queued:
                return None
            if stream.state is State.CLOSED:
                raise trio.BrokenResourceError(_explain(stream))
            if self._arrival.is_set():
                self._arrival = trio.Event()
            await self._arrival.wait()

    def took(self, size: int) -> None:
        """The first `size` bytes of the piece that `wait_arrival` showed are consumed."""
        queue = self._stream.incoming.queue
        self._taken += size
        if self._taken == len(queue[0]):
            queue.popleft()
            self._taken = 0
        self._stream.consume(size, trio.current_time())
        self._stream.flush()

    def _check_sendable(self) -> None:
        stream = self._stream
        if self._closed or stream.outgoing.end is not None:
            raise trio.ClosedResourceError("this direction of the stream was ended")
        if stream.state is State.CLOSED or stream.pending_reset is not None:
            raise trio.BrokenResourceError(_explain(stream))

    def _wake(self) -> None:
        self._room.set()
        self._arrival.set()

    # --- StreamFace: called from the link's reader and pump ---------------------------------------

    def on_answer(self) -> None:
        """Never here: whoever opened the stream was the face until then."""

    def on_data(self, data: memoryview) -> None:
        """Queue a copy."""
        self._messages.note(RECEIVED, len(data), trio.current_time())
        self._stream.incoming.keep(data)
        self._arrival.set()

    def on_end(self) -> None:
        """Wake the receiver."""
        self._arrival.set()

    def on_reset(self) -> None:
        """Wake everybody."""
        self._wake()
        if self.on_broken is not None:
            self.on_broken()

    def on_room(self) -> None:
        """Wake the sender."""
        self._room.set()


def _explain(stream: Stream) -> str:
    return str(stream.end_cause.value if stream.end_cause else "the stream is being reset")


class _Opening:
    """The face of a stream from CONNECT until whoever asked for it has seen the answer."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.answered = trio.Event()

    def on_answer(self) -> None:
        self.answered.set()

    def on_reset(self) -> None:
        self.answered.set()

    def on_data(self, data: memoryview) -> None:
        # A target that speaks first is heard before the task that opened the stream gets its turn.
        self._stream.incoming.keep(data)

    def on_end(self) -> None:
        pass

    def on_room(self) -> None:
        pass


async def open_stream(connection: OpenerConnection, session: Session, host: str, port: int) -> TunnelStream:
    """Ask the agent to dial `host`:`port`, and wait for its answer. Put a deadline around it.

    Raises `OpenFailed`. Cancelled, the dial is called off and nothing remains.
    """
    stream = connection.open_stream(session, host, port)
    face = stream.face = _Opening(stream)
    stream.flush()
    try:
        await face.answered.wait()
    except trio.Cancelled:
        stream.reset(ErrorCode.CANCEL)
        stream.flush()
        raise
    check_opened(stream)
    return TunnelStream(stream)


def check_opened(stream: Stream) -> None:
    """What the answer to our CONNECT was: raises `OpenFailed` if it was no."""
    if stream.refusal is not None:
        raise stream.refusal
    # With data before it, a reset comes behind a yes: it is for whoever reads them.
    if stream.state is State.CLOSED and not stream.incoming.received and stream.incoming.end is None:
        if stream.end_cause in LOST:
            raise OpenFailed(Cause.LINK_LOST, "the link to the agent ended before its answer")
        raise OpenFailed(Cause.FAILED, "the agent reset the request")


class IncomingStream:
    """The server's request for a stream, until it is accepted or refused."""

    def __init__(self, connection: AnswererConnection, stream: Stream) -> None:
        self._connection = connection
        self._stream = stream
        self._scope: trio.CancelScope | None = None
        stream.face = self

    @property
    def scope(self) -> trio.CancelScope:
        """Dial within it: it is cancelled when the request goes away."""
        if self._scope is None:
            self._scope = trio.CancelScope()
            if self._stream.state is State.CLOSED:
                self._scope.cancel()
        return self._scope

    @property
    def host(self) -> str:
        """The target's name or literal address, as the server sent it."""
        return self._stream.host

    @property
    def port(self) -> int:
        """The target's port."""
        return self._stream.port

    def accept(self) -> TunnelStream:
        """The dial succeeded: answer 200. Raises `OpenFailed` (cancelled) if the request has gone
        meanwhile.
        """
        stream = self.answer()
        tunnel = TunnelStream(stream)
        stream.flush()
        return tunnel

    def answer(self) -> Stream:
        """The same for whoever becomes the stream's face at once, and flushes it."""
        if self._stream.state is not State.OPENING:
            raise OpenFailed(Cause.CANCELLED, "the request has gone")
        self._connection.accept(self._stream)
        return self._stream

    def refuse(self, cause: Cause, detail: str = "") -> None:
        """The dial failed: answer with the cause. Nothing happens if the request has gone meanwhile."""
        self._connection.refuse(self._stream, cause, detail)
        self._stream.flush()

    def on_answer(self) -> None:
        """Never: we answer."""

    def on_data(self, data: memoryview) -> None:
        """It is for the target, once that is dialled."""
        self._stream.incoming.keep(data)

    def on_end(self) -> None:
        """Never: an end before the 200 is a stream error."""

    def on_reset(self) -> None:
        """The server called it off, or the link ended."""
        if self._scope is not None:
            self._scope.cancel()

    def on_room(self) -> None:
        """Not yet."""
