"""A single connection whose peer is made of frames, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, HeadersFrame, RstStreamFrame, SettingsFrame

from tests.tunnel_wire.memory import MIB, Face
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import Event, StreamRequested
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import OPTIMISTIC, RESUME, Hello, new_id
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_wire.connection import Connection

KIB = 1024


@dataclass
class Sent:
    """A frame that a connection sent."""

    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """The error code of a RST_STREAM or GOAWAY."""
        at = {frames.RST_STREAM: 0, frames.GOAWAY: 4}[self.kind]
        return int.from_bytes(self.payload[at : at + 4], "big")

    @property
    def increment(self) -> int:
        """Of a WINDOW_UPDATE."""
        assert self.kind == frames.WINDOW_UPDATE
        return int.from_bytes(self.payload, "big")


def split_frames(data: bytes) -> list[Sent]:
    """Whole frames, without a preface."""
    found = []
    at = 0
    while at < len(data):
        length, kind, flags, stream_id = frames.parse_header(data, at)
        at += frames.HEADER_SIZE + length
        found.append(Sent(kind, flags, stream_id, data[at - length : at]))
    assert at == len(data)
    return found


def raw(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Any frame."""
    return frames.frame_header(len(payload), kind, flags, stream_id) + payload


CONNECT = [(b":method", b"CONNECT"), (b":authority", b"target:80")]


class Handmade:
    """A single connection whose peer is the test."""

    def __init__(self, connection: Connection, session: Session) -> None:
        self.connection = connection
        self.session = session
        self.now = 1000.0
        self.encoder = Encoder()
        self.events: list[Event] = []
        self.sent = b""
        if isinstance(connection, AnswererConnection):
            self.receive(frames.PREFACE)
        self.receive(SettingsFrame(0), SettingsFrame(0, flags=["ACK"]))

    @classmethod
    def opener(
        cls, limits: WireLimits = DEFAULT_LIMITS, *, hello: bool = True, said: str = "", heard: str = ""
    ) -> Handmade:
        """An opener that has (or has not) been greeted. Each end announces what stands in `said`, `heard`."""
        session = Session(budget=Budget(1 << 30), limits=limits)
        own = Hello("1", instance=new_id(), capabilities=frozenset(said.split()))
        connection = OpenerConnection(own, now=1000.0, limits=limits)
        connection.session = session
        made = cls(connection, session)
        if hello:
            answer = Hello("1", session=new_id(), node="edge-1", capabilities=frozenset(heard.split()))
            made.receive(made.headers(1, [(b":status", b"200"), *answer.to_headers()], end=True))
            made.take()
        return made

    @classmethod
    def answerer(cls, limits: WireLimits = DEFAULT_LIMITS, *, heard: str | None = None) -> Handmade:
        """An answerer that announces all that there is. The peer has said hello on stream 1, if it `heard` of
        capabilities at all.
        """
        session = Session(budget=Budget(1 << 30), limits=limits, first_key=1 << 63)
        capabilities = frozenset({RESUME, OPTIMISTIC})
        hello = Hello("1", session=session.identifier, node="edge-1", capabilities=capabilities)
        made = cls(AnswererConnection(session, hello, now=1000.0), session)
        if heard is not None:
            asked = [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", b"t"),
                (b":path", b"/hello"),
            ]
            said = Hello("1", instance=new_id(), capabilities=frozenset(heard.split()), grace=90)
            made.receive(made.headers(1, [*asked, *said.to_headers()], end=True))
        made.take()
        return made

    def headers(
        self, stream_id: int, headers: Iterable[tuple[bytes, bytes]], *, end: bool = False
    ) -> HeadersFrame:
        frame = HeadersFrame(stream_id, flags=["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"])
        frame.data = self.encoder.encode(list(headers))
        return frame

    def receive(self, *what: Frame | bytes) -> list[Event]:
        """Feed frames, in one piece."""
        data = b"".join(one if isinstance(one, bytes) else one.serialize() for one in what)
        for one in what:
            if isinstance(one, Frame):
                one.body_len = 0
        events = self.connection.receive(memoryview(data), self.now)
        self.events += events
        return events

    def take(self) -> list[Sent]:
        """What the connection has to send."""
        data = b"".join(self.connection.take(MIB))
        return split_frames(data.removeprefix(frames.PREFACE))

    def take_or_ask(self) -> list[Sent]:
        """The same, or the question for receipt if nothing else is due."""
        return split_frames(b"".join(self.connection.take_or_ask(MIB, lambda: self.now)))

    def accepted(self, stream_id: int = 1) -> Stream:
        """An open stream of an answerer."""
        (requested,) = self.receive(self.headers(stream_id, CONNECT))
        assert isinstance(requested, StreamRequested)
        assert isinstance(self.connection, AnswererConnection)
        self.connection.accept(requested.stream)
        self.take()
        Face(requested.stream)
        return requested.stream

    def opened(self) -> Stream:
        """An open stream of an opener."""
        assert isinstance(self.connection, OpenerConnection)
        stream = self.connection.open_stream(self.session, "target", 80)
        self.receive(self.headers(stream.stream_id, [(b":status", b"200")]))
        self.take()
        Face(stream)
        return stream


# --- frames, and what becomes of the connection that gets them ----------------------------------


def data(stream_id: int, payload: bytes = b"", *, end: bool = False) -> bytes:
    return raw(frames.DATA, frames.FLAG_END_STREAM if end else 0, stream_id, payload)


def window_update(stream_id: int, increment: int) -> bytes:
    return frames.window_update(stream_id, increment)


def reset(stream_id: int, code: int = 8) -> RstStreamFrame:
    frame = RstStreamFrame(stream_id)
    frame.error_code = code
    return frame


def initial_window(size: int) -> SettingsFrame:
    return SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: size})


def fails(peer: Handmade, *what: Frame | bytes) -> ErrorCode:
    """The code with which the connection fails; its GOAWAY says the same, and is the last frame."""
    with pytest.raises(ConnectionFailed) as failure:
        peer.receive(*what)
    *before, goaway = peer.take()
    assert goaway.kind == frames.GOAWAY
    assert frames.GOAWAY not in [frame.kind for frame in before]
    assert goaway.code == failure.value.code
    return ErrorCode(failure.value.code)


def resets(peer: Handmade, stream_id: int) -> ErrorCode:
    """The code of the one RST_STREAM that is sent; the connection goes on."""
    (sent,) = [frame for frame in peer.take() if frame.kind == frames.RST_STREAM]
    assert sent.stream_id == stream_id
    peer.receive(raw(frames.PING, 0, 0, b"go on..."))
    assert Sent(frames.PING, frames.FLAG_ACK, 0, b"go on...") in peer.take()
    return ErrorCode(sent.code)


def goaway(last: int, code: int = 0, said: bytes = b"") -> GoAwayFrame:
    return GoAwayFrame(0, last, code, additional_data=said)
