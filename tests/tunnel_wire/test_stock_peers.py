"""What is on the wire is plain HTTP/2: implementations that know no tunnels stand at the other end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import Frame, HeadersFrame

from tests.tunnel_wire.memory import MIB, Face, consume, tell
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause
from tunnel_wire.events import Answered, DataReceived, EndReceived, Event, HelloReceived, StreamRequested
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import DrainReason, Hello, new_id
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session, Stream
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnel_wire.connection import Connection

NOW = 1000.0


def opener() -> OpenerConnection:
    connection = OpenerConnection(Hello("1", instance=new_id()), now=NOW)
    connection.session = Session(budget=Budget(1 << 30))
    return connection


def answerer() -> AnswererConnection:
    session = Session(budget=Budget(1 << 30), first_key=1 << 63)
    return AnswererConnection(session, Hello("1", session=session.identifier, node="edge-1"), now=NOW)


def session_of(connection: Connection) -> Session:
    assert connection.session is not None
    return connection.session


# --- h2, in memory --------------------------------------------------------------------------------


class Stock:
    """An ordinary h2 at the other end of ours, which queues what it gets like any user of it."""

    def __init__(self, ours: Connection) -> None:
        self.ours = ours
        client = isinstance(ours, AnswererConnection)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        )
        self.h2.initiate_connection()
        self.got = bytearray()
        self.events: list[h2.events.Event] = []
        self.ours_saw: list[Event] = []
        self.settle()

    def settle(self) -> None:
        while True:
            to_ours = self.h2.data_to_send()
            for event in self.ours.receive(memoryview(to_ours), NOW):
                self.ours_saw.append(event)
                match event:
                    case DataReceived():
                        face = event.stream.face
                        assert face is not None
                        face.on_data(event.data)
                    case _:
                        pass
            now = NOW + len(self.events)
            to_stock = b"".join(self.ours.take_or_ask(MIB, lambda now=now: now))
            if not to_ours and not to_stock:
                return
            for received in self.h2.receive_data(to_stock):
                self.events.append(received)
                if isinstance(received, h2.events.DataReceived):
                    self.got += received.data
                    assert received.flow_controlled_length is not None
                    assert received.stream_id is not None
                    self.h2.acknowledge_received_data(received.flow_controlled_length, received.stream_id)

    def last(self, kind: type[h2.events.Event]) -> h2.events.Event:
        return next(event for event in reversed(self.events) if isinstance(event, kind))


def exchange(stock: Stock, stream: Stream) -> None:
    """300 KiB each way, then half-closes, the stock peer's first."""
    face = Face(stream)
    number = stream.stream_id
    sent, expected = bytearray(), bytes(range(256)) * 1200
    left = memoryview(expected)
    written = 0
    while left or written < len(expected):
        if size := min(stock.h2.local_flow_control_window(number), len(left), 16_384):
            stock.h2.send_data(number, bytes(left[:size]))
            left = left[size:]
        if room := min(stream.room(), len(expected) - written):
            stream.write(expected[written : written + room])
            written += room
        stock.settle()
        sent += consume(stream, 1 << 20, NOW)
        stock.settle()
    assert sent == stock.got == expected
    stock.h2.end_stream(number)
    stock.settle()
    assert EndReceived(stream) in stock.ours_saw
    stream.write(b"last words")
    stream.write_end()
    stock.settle()
    assert stock.got[len(expected) :] == b"last words"
    ended = stock.last(h2.events.StreamEnded)
    assert isinstance(ended, h2.events.StreamEnded)
    assert ended.stream_id == number
    assert face.stream.end_cause is EndCause.FINISHED
    assert not stock.ours._streams


def test_h2_as_the_agent() -> None:
    ours = opener()
    stock = Stock(ours)
    asked = stock.last(h2.events.RequestReceived)
    assert isinstance(asked, h2.events.RequestReceived)
    assert (":path", "/hello") in asked.headers
    stock.h2.send_headers(1, [(":status", "404"), ("content-length", "9")])
    stock.h2.send_data(1, b"not found", end_stream=True)
    stock.settle()
    assert stock.ours_saw == [HelloReceived(None)]

    stream = ours.open_stream(session_of(ours), "target", 80)
    stock.settle()
    asked = stock.last(h2.events.RequestReceived)
    assert isinstance(asked, h2.events.RequestReceived)
    assert dict(asked.headers)[":method"] == "CONNECT"
    stock.h2.send_headers(stream.stream_id, [(":status", "200")])
    stock.settle()
    assert stock.ours_saw[-1] == Answered(stream)
    exchange(stock, stream)

    refused = ours.open_stream(session_of(ours), "elsewhere", 81)
    stock.settle()
    stock.h2.send_headers(refused.stream_id, [(":status", "403"), ("content-length", "2")])
    stock.h2.send_data(refused.stream_id, b"no", end_stream=True)
    stock.settle()
    assert refused.refusal is not None
    assert refused.refusal.cause is Cause.NOT_ALLOWED

    # h2 lets its peer open 100 streams.
    opened = [ours.open_stream(session_of(ours), "many", 80) for _ in range(99)]
    assert not ours.can_open()
    ours.drain(DrainReason.SHUTDOWN)
    stock.settle()
    for one in opened[:50]:
        stock.h2.reset_stream(one.stream_id, ErrorCode.CONNECT_ERROR)
    stock.settle()
    for one in opened[50:]:
        one.reset(ErrorCode.CANCEL)
    stock.settle()
    assert {one.end_cause for one in opened} == {EndCause.PEER_RESET, EndCause.LOCAL_RESET}
    assert session_of(ours).budget.used == 0
    ours.close()
    stock.settle()
    ended = stock.last(h2.events.ConnectionTerminated)
    assert isinstance(ended, h2.events.ConnectionTerminated)
    assert ended.error_code == 0


def test_h2_as_the_server() -> None:
    ours = answerer()
    stock = Stock(ours)

    def connect(number: int) -> Stream:
        stock.h2.send_headers(number, [(":method", "CONNECT"), (":authority", "target:80")])
        stock.settle()
        requested = stock.ours_saw[-1]
        assert isinstance(requested, StreamRequested)
        return requested.stream

    stream = connect(1)
    ours.accept(stream)
    stock.settle()
    answered = stock.last(h2.events.ResponseReceived)
    assert isinstance(answered, h2.events.ResponseReceived)
    assert dict(answered.headers)[":status"] == "200"
    exchange(stock, stream)

    ours.refuse(connect(3), Cause.TIMED_OUT, "no answer")
    stock.settle()
    answered = stock.last(h2.events.ResponseReceived)
    assert isinstance(answered, h2.events.ResponseReceived)
    assert dict(answered.headers)["tunnel-cause"] == "timed-out"

    stream = connect(5)
    ours.accept(stream)
    stream.write(b"sent before the reset")
    stream.reset_behind_data(ErrorCode.CONNECT_ERROR, NOW)
    stock.settle()
    assert stock.got.endswith(b"sent before the reset")
    reset = stock.last(h2.events.StreamReset)
    assert isinstance(reset, h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (5, ErrorCode.CONNECT_ERROR)

    stream = connect(7)
    stock.h2.reset_stream(7, ErrorCode.CANCEL)
    stock.settle()
    assert stream.end_cause is EndCause.PEER_RESET
    stock.h2.close_connection()
    stock.settle()
    assert ours.draining
    assert session_of(ours).budget.used == 0


def test_h2_changes_its_mind_about_windows() -> None:
    ours = answerer()
    stock = Stock(ours)
    stock.h2.send_headers(1, [(":method", "CONNECT"), (":authority", "target:80")])
    stock.settle()
    (stream,) = session_of(ours).streams.values()
    ours.accept(stream)
    stock.settle()
    setting = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
    total = 0
    for window in (0, 1000, 65_535, 10, 1 << 20):
        stock.h2.update_settings({setting: window})
        stock.settle()
        for _ in range(5):
            size = stream.room()
            stream.write(bytes(size))
            total += size
            stock.settle()
    assert len(stock.got) == total > 200_000


def test_a_client_that_ends_before_it_reads() -> None:
    ours = answerer()
    stock = Stock(ours)
    stock.h2.send_headers(1, [(":method", "CONNECT"), (":authority", "target:80")])
    stock.settle()
    (stream,) = session_of(ours).streams.values()
    ours.accept(stream)
    stock.settle()
    stock.h2.end_stream(1)
    stock.settle()
    assert stream.state is State.OPEN
    stream.write(b"answer")
    stream.write_end()
    stock.settle()
    assert stock.got == b"answer"
    assert stream.end_cause is EndCause.FINISHED


# --- nghttp2's programs, over TCP -----------------------------------------------------------------


def carry(sock: socket.socket, connection: Connection | Echo, step: Callable[[list[Event]], bool]) -> None:
    """Carry a connection over a blocking socket until `step`, given what came, says that it is done, or the
    peer closes.
    """
    sock.settimeout(10)
    while True:
        sock.sendall(b"".join(connection.take(MIB)))
        data = sock.recv(65_536)
        if not data:
            return
        done = step(connection.receive(memoryview(data), NOW))
        sock.sendall(b"".join(connection.take(MIB)))
        if done:
            return


@contextmanager
def nghttpd(directory: Path, *options: str) -> Iterator[socket.socket]:
    """A connection to a running nghttpd."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = ["nghttpd", "--no-tls", "-v", "-a", "127.0.0.1", "-d", str(directory), *options, str(port)]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert program.stdout is not None
        said = ""
        while f":{port}" not in said:
            said = program.stdout.readline()
            assert said, "nghttpd ended"
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            yield sock
    finally:
        program.kill()
        program.communicate()


needs_nghttpd = pytest.mark.skipif(shutil.which("nghttpd") is None, reason="nghttpd is not installed")


@needs_nghttpd
@pytest.mark.parametrize("known", [False, True])
def test_nghttpd_as_the_agent(tmp_path: Path, known: bool) -> None:
    if known:
        # An answer to hello that introduces nobody, with a body larger than its window.
        (tmp_path / "hello").write_bytes(bytes(500_000))
    connection = opener()
    seen: list[Event] = []
    streams: list[Stream] = []

    def step(events: list[Event]) -> bool:
        seen.extend(events)
        if events and isinstance(events[0], HelloReceived):
            # It is no proxy, and waits for more; so these are given up.
            streams.extend(connection.open_stream(session_of(connection), "target", 80) for _ in range(50))
            for stream in streams[10:]:
                stream.reset(ErrorCode.CANCEL)
            connection.drain(DrainReason.SHUTDOWN, "a test")
            connection.probe(NOW)
        return connection.round_trip is not None

    with nghttpd(tmp_path) as sock:
        carry(sock, connection, step)
    assert seen == [HelloReceived(Hello("") if known else None)]
    assert [stream.state for stream in streams] == [State.OPENING] * 10 + [State.CLOSED] * 40
    # Hello and drain are over, whatever they were answered with.
    assert connection._h2.streams.keys() == {stream.stream_id for stream in streams[:10]}


class Echo:
    """An answerer to which the one request of its client, an upload, is a stream, as nghttp has no CONNECT
    without a path; what comes goes back.
    """

    def __init__(self) -> None:
        self.connection = answerer()
        self.take = self.connection.take
        self._begun = bytearray()
        """What came, until there is all of the request."""
        self._is_open = False

    def receive(self, data: memoryview, now: float) -> list[Event]:
        if self._is_open:
            return self._pass_on(data, now)
        self._begun += data
        if (found := self._find_request()) is None:
            return []
        self._is_open = True
        begins, ends = found
        with memoryview(bytes(self._begun)) as begun:
            self._pass_on(begun[:begins], now)
            # What is behind a request comes after its answer: nghttp sends the body at once.
            return self._pass_on(memoryview(_as_connect(begun[begins:ends])), now) + (
                self._pass_on(begun[ends:], now)
            )

    def _find_request(self) -> tuple[int, int] | None:
        """Where its HEADERS begin and end, once they are all there."""
        begun, begins = bytes(self._begun), len(frames.PREFACE)
        while begins + frames.HEADER_SIZE <= len(begun):
            length, kind, _, _ = frames.parse_header(begun, begins)
            ends = begins + frames.HEADER_SIZE + length
            if kind == frames.HEADERS:
                return (begins, ends) if ends <= len(begun) else None
            begins = ends
        return None

    def _pass_on(self, data: memoryview, now: float) -> list[Event]:
        events = self.connection.receive(data, now)
        for event in events:
            self._go_round(event)
        return events

    def _go_round(self, event: Event) -> None:
        match event:
            case StreamRequested():
                self.connection.accept(event.stream)
                Face(event.stream)
            case DataReceived():
                tell(event)
            case _:
                pass
        for stream in list(session_of(self.connection).streams.values()):
            while data := consume(stream, stream.room(), NOW):
                stream.write(data)
            if stream.incoming.end is not None and not stream.incoming.queued:
                stream.write_end()


def _as_connect(post: memoryview) -> bytes:
    """The HEADERS of an upload as those of a CONNECT, padded as they were.

    The two ends' tables are out of step then: no request may follow.
    """
    frame, _ = Frame.parse_frame_header(post[: frames.HEADER_SIZE])
    frame.parse_body(post[frames.HEADER_SIZE :])
    assert isinstance(frame, HeadersFrame)
    assert "END_HEADERS" in frame.flags
    assert (b":method", b"POST") in Decoder().decode(frame.data, raw=True)
    frame.data = Encoder().encode([(b":method", b"CONNECT"), (b":authority", b"target:80")])
    return frame.serialize()


@contextmanager
def serving(
    connection: Connection | Echo, step: Callable[[list[Event]], bool] = lambda _: False
) -> Iterator[int]:
    """The port at which a connection waits for one client. What that sends comes to it as it was read."""

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            carry(sock, connection, step)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout + done.stderr


needs_nghttp = pytest.mark.skipif(shutil.which("nghttp") is None, reason="nghttp is not installed")


TABLES = [
    pytest.param([], id="with a table of 4 KiB"),
    pytest.param(["--encoder-header-table-size=150"], id="with a table of two fields or three"),
    pytest.param(["--encoder-header-table-size=0"], id="with no table"),
]
"""Of header compression, the size of which the client says in a header block."""


@needs_nghttp
@pytest.mark.parametrize("options", TABLES)
def test_nghttp_as_the_server(options: list[str]) -> None:
    connection = answerer()
    seen: list[Event] = []

    def step(events: list[Event]) -> bool:
        seen.extend(events)
        return False

    with serving(connection, step) as port:
        command = ["nghttp", "-nv", "-m", "3", *options]
        url = f"http://127.0.0.1:{port}"
        said = run(*command, "-H", "tunnel-node: edge of the world", f"{url}/hello", f"{url}/")
    assert seen == [HelloReceived(Hello("", node="edge of the world"))] * 3
    assert "tunnel-node: edge-1" in said
    assert said.count(":status: 404") == 3
    assert "GOAWAY" in said
    assert "error_code=NO_ERROR" in said
    assert connection.draining


@needs_nghttp
@pytest.mark.parametrize(
    "options",
    [
        pytest.param([], id="as it is"),
        pytest.param(["-b", "255"], id="with padding"),
        pytest.param(["-w", "10", "-W", "11"], id="with windows of one and two KiB"),
    ],
)
def test_a_stream_through_nghttp(tmp_path: Path, options: list[str]) -> None:
    """Bytes both ways, several windows of them, and END_STREAM on the last that come, with their padding: it
    pads no frame that is full.
    """
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 1999)
    echo = Echo()
    with serving(echo) as port:
        command = ["nghttp", *options, "-d", str(upload), f"http://127.0.0.1:{port}/"]
        got = subprocess.run(command, stdout=subprocess.PIPE, timeout=20, check=True).stdout
    assert got == upload.read_bytes()
    session = session_of(echo.connection)
    (stream,) = session.streams.values()
    # It asks for nothing once it has the end, and leaves: that ends the stream, and does not break it.
    assert session.lose_link(echo.connection, NOW) == []
    assert stream.end_cause is EndCause.FINISHED
    assert session.budget.used == 0


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.parametrize("options", TABLES)
def test_h2load_as_the_server(options: list[str]) -> None:
    connection = answerer()
    batches: list[list[Event]] = []

    def step(events: list[Event]) -> bool:
        batches.append(events)
        return False

    with serving(connection, step) as port:
        command = ["h2load", "-n", "2000", "-c", "1", "-m", "100", *options]
        url = f"http://127.0.0.1:{port}"
        said = run(*command, "-H", "tunnel-node: edge of the world", f"{url}/hello", f"{url}/")
    assert "1000 succeeded, 1000 failed" in said
    assert "status codes: 1000 2xx, 0 3xx, 1000 4xx, 0 5xx" in said
    seen = [event for events in batches for event in events]
    assert seen == [HelloReceived(Hello("", node="edge of the world"))] * 1000
    # Of the hundred requests that it sends at once, every second is hello; the kernel may cut them in two.
    assert max(map(len, batches)) >= 25
    assert not connection._h2.streams
