"""Both ends of a connection in memory, without I/O, for tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.events import (
    Answered,
    DataReceived,
    DrainReceived,
    EndReceived,
    Event,
    HelloReceived,
    RoomGained,
    StreamRequested,
    StreamReset,
)
from tunnel_wire.flow import Budget
from tunnel_wire.hello import Hello, new_id
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session, Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.connection import Connection

MIB = 1 << 20


class Face:
    """A stream's user that queues what comes, and notes what it was told."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        stream.face = self
        self.told: list[str] = []
        self.arrived = bytearray()

    def on_answer(self) -> None:
        self.told.append("answer")

    def on_data(self, data: memoryview) -> None:
        assert not {"end", "reset"} & set(self.told)
        self.arrived += data
        self.stream.incoming.queue.append(bytes(data))

    def on_end(self) -> None:
        self.told.append("end")

    def on_reset(self) -> None:
        self.told.append("reset")

    def on_room(self) -> None:
        pass


def consume(stream: Stream, size: int, now: float) -> bytes:
    """Take at most `size` bytes from the stream's queue, as its user does."""
    queue = stream.incoming.queue
    taken = bytearray()
    while queue and len(taken) < size:
        piece = queue.popleft()
        left = size - len(taken)
        taken += piece[:left]
        if piece[left:]:
            queue.appendleft(piece[left:])
    stream.consume(len(taken), now)
    return bytes(taken)


def tell(event: DataReceived | EndReceived | StreamReset | Answered | RoomGained) -> None:
    """Tell the stream's user, as a link does."""
    face = event.stream.face
    if face is None:
        return
    match event:
        case DataReceived():
            face.on_data(event.data)
        case EndReceived():
            face.on_end()
        case StreamReset():
            face.on_reset()
        case Answered():
            face.on_answer()
        case RoomGained():
            face.on_room()


@dataclass
class End:
    """One end, and the bytes on their way from it."""

    connection: Connection
    session: Session
    wire: bytearray = field(default_factory=bytearray)
    noted: list[Event] = field(default_factory=list)
    faces: dict[int, Face] = field(default_factory=dict)
    """By key."""


class Pair:
    """An opener and an answerer, joined by two wires. Nothing moves by itself."""

    def __init__(
        self,
        limits: WireLimits = DEFAULT_LIMITS,
        answering_limits: WireLimits | None = None,
        budget: int = 1 << 30,
        capabilities: frozenset[str] = frozenset(),
    ) -> None:
        self.now = 1000.0
        opening = Session(budget=Budget(budget), limits=limits)
        answering = Session(budget=Budget(budget), limits=answering_limits or limits, first_key=1 << 63)
        said = Hello("1", instance=new_id(), capabilities=capabilities)
        self.opener = OpenerConnection(said, now=self.now, limits=limits)
        self.opener.session = opening
        hello = Hello("1", session=answering.identifier, node="edge-1", capabilities=capabilities)
        self.answerer = AnswererConnection(answering, hello, now=self.now)
        self.near = End(self.opener, opening)
        self.far = End(self.answerer, answering)
        self.requests: list[Stream] = []
        """Asked of the answerer, and not yet answered."""
        self.rewrite: Callable[[End, bytes], bytes] = lambda _end, data: data
        """What the other end gets instead of what this one put onto the wire."""

    def other(self, end: End) -> End:
        return self.far if end is self.near else self.near

    def flush(self, end: End, size: int = MIB) -> int:
        """What the link's pump does: put onto the wire what is due. Returns its size."""
        before = len(end.wire)
        while True:
            out = end.connection.take_or_ask(size, lambda: self.now)
            if not out:
                return len(end.wire) - before
            end.wire += self.rewrite(end, b"".join(out))

    def deliver(self, end: End, size: int = MIB) -> int:
        """Give the other end the first `size` bytes of what is on the wire, and tell its streams' users."""
        data = bytes(end.wire[:size])
        del end.wire[:size]
        to = self.other(end)
        for event in to.connection.receive(memoryview(data), self.now):
            self.dispatch(to, event)
        return len(data)

    def dispatch(self, end: End, event: Event) -> None:
        end.noted.append(event)
        match event:
            case StreamRequested():
                end.faces[event.stream.key] = Face(event.stream)
                self.requests.append(event.stream)
            case HelloReceived() | DrainReceived():
                pass
            case _:
                tell(event)

    def settle(self) -> None:
        """Move everything until nothing moves."""
        while self.flush(self.near) + self.flush(self.far) + self.deliver(self.near) + self.deliver(self.far):
            pass

    def open(self, host: str = "target", port: int = 80) -> Stream:
        stream = self.opener.open_stream(self.near.session, host, port)
        self.near.faces[stream.key] = Face(stream)
        return stream

    def stream(self) -> tuple[Stream, Stream]:
        """An open stream's two ends."""
        near = self.open()
        self.settle()
        far = self.requests.pop()
        self.answerer.accept(far)
        self.settle()
        return near, far

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for end in (self.near, self.far):
            end.connection.tick(self.now)
