"""The agent's end of a link: what it makes of requests, ours and a stock client's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack import Decoder

from tests.tunnel_wire.handmade import CONNECT, Handmade, data, fails, reset
from tests.tunnel_wire.memory import Face, consume
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import STATUS_OF_CAUSE, Cause
from tunnel_wire.events import DrainReceived, HelloReceived, StreamRequested, StreamReset
from tunnel_wire.frames import ErrorCode
from tunnel_wire.limits import WireLimits
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Stream

KEY = (b"tunnel-key", b"00000000000000aa")
OFFSETS = [(b"tunnel-received", b"0"), (b"tunnel-limit", b"65536")]


class Asking:
    """A hand-made client that reads the answers."""

    def __init__(self, limits: WireLimits | None = None) -> None:
        self.peer = Handmade.answerer(limits or WireLimits())
        self.decoder = Decoder()
        self.stream_id = -1

    @property
    def connection(self) -> AnswererConnection:
        assert isinstance(self.peer.connection, AnswererConnection)
        return self.peer.connection

    def ask(self, *headers: tuple[bytes, bytes], end: bool = True) -> list[object]:
        self.stream_id += 2
        return list(self.peer.receive(self.peer.headers(self.stream_id, headers, end=end)))

    def connect(self, *fields: tuple[bytes, bytes]) -> Stream:
        (requested,) = self.ask(*CONNECT, *fields, end=False)
        assert isinstance(requested, StreamRequested)
        return requested.stream

    def answer(self) -> tuple[dict[bytes, bytes], bool]:
        """The header block that was sent, and whether it was the end."""
        (frame,) = [frame for frame in self.peer.take() if frame.kind == frames.HEADERS]
        assert frame.stream_id == self.stream_id
        fields = {bytes(n): bytes(v) for n, v in self.decoder.decode(frame.payload, raw=True)}
        return fields, bool(frame.flags & frames.FLAG_END_STREAM)


@pytest.fixture
def asking() -> Asking:
    return Asking()


def request(method: bytes, path: bytes) -> list[tuple[bytes, bytes]]:
    return [(b":method", method), (b":scheme", b"https"), (b":authority", b"tunnel"), (b":path", path)]


# --- link control ---------------------------------------------------------------------------------


def test_hello(asking: Asking) -> None:
    (heard,) = asking.ask(*request(b"GET", b"/hello"), (b"tunnel-version", b"2"), (b"tunnel-new", b"\xe9"))
    assert isinstance(heard, HelloReceived)
    fields, ended = asking.answer()
    assert ended
    assert fields[b":status"] == b"200"
    assert fields[b"tunnel-node"] == b"edge-1"
    assert fields[b"tunnel-session"].decode() == asking.peer.session.identifier


def test_a_hello_that_is_not_admitted_has_no_effect(asking: Asking) -> None:
    session = asking.peer.session
    session.instance = "1" * 32
    asking.connection._admits = lambda hello: hello.instance != "2" * 32
    assert not asking.ask(*request(b"GET", b"/hello"), (b"tunnel-instance", b"2" * 32))
    assert session.instance == "1" * 32
    assert not [frame for frame in asking.peer.take() if frame.kind == frames.HEADERS]


@pytest.mark.parametrize(
    ("fields", "until"),
    [
        ([], [1120, 1120]),  # of the last release: it keeps some of them for less, and does not say so
        ([(b"tunnel-grace-pooled", b"10")], [1040, 1120]),
        ([(b"tunnel-grace-pooled", b"0")], [1030, 1120]),
        ([(b"tunnel-grace-pooled", b"200")], [1120, 1120]),
    ],
)
def test_streams_are_held_longer_than_the_server_keeps_them(
    asking: Asking, fields: list[tuple[bytes, bytes]], until: list[float]
) -> None:
    resume = [(b"tunnel-capabilities", b"resume"), (b"tunnel-grace", b"90")]
    asking.ask(*request(b"GET", b"/hello"), *resume, *fields)
    suspended = asking.peer.session.suspended
    for key in (1, 2):
        stream = asking.peer.session.new_stream("target", 80, key=key)
        stream.is_pooled = key == 1
        stream.suspend(1000)
    assert list(suspended._due.values()) == until


def test_a_malformed_hello_ends_the_link(asking: Asking) -> None:
    frame = asking.peer.headers(1, [*request(b"GET", b"/hello"), (b"tunnel-instance", b"?")], end=True)
    assert fails(asking.peer, frame) is ErrorCode.PROTOCOL_ERROR


def test_drain(asking: Asking) -> None:
    fields = [(b"tunnel-reason", b"of-tomorrow"), (b"tunnel-detail", b"caf\xc3\xa9")]
    assert asking.ask(*request(b"POST", b"/drain"), *fields) == [DrainReceived("of-tomorrow", "caf??")]
    assert asking.connection.draining
    assert asking.answer() == ({b":status": b"200"}, True)


@pytest.mark.parametrize(("method", "path"), [(b"GET", b"/"), (b"POST", b"/hello"), (b"HEAD", b"/resumed")])
def test_anything_else_is_not_found(asking: Asking, method: bytes, path: bytes) -> None:
    assert asking.ask(*request(method, path)) == []
    assert asking.answer() == ({b":status": b"404"}, True)
    assert not asking.connection._h2.streams


def test_a_request_with_a_body_is_answered_and_its_body_swallowed(asking: Asking) -> None:
    length = (b"content-length", b"10")
    assert asking.ask(*request(b"PUT", b"/x"), length, end=False) == []
    assert asking.answer() == ({b":status": b"404"}, True)
    assert asking.peer.receive(data(1, b"12345"), data(1, b"67890", end=True)) == []
    assert not asking.connection._h2.streams
    assert not asking.peer.take()


# --- CONNECT --------------------------------------------------------------------------------------


def test_accepting(asking: Asking) -> None:
    stream = asking.connect(KEY, (b"tunnel-state", b"opening"), (b"tunnel-future", b"\xff"))
    assert (stream.key, stream.host, stream.port) == (0xAA, "target", 80)
    assert asking.peer.take() == []
    asking.connection.accept(stream)
    fields, ended = asking.answer()
    assert fields == {b":status": b"200", b"tunnel-received": b"0", b"tunnel-limit": b"65536"}
    assert not ended
    assert stream.room() > 0


@pytest.mark.parametrize(("cause", "status"), STATUS_OF_CAUSE.items())
def test_refusing(asking: Asking, cause: Cause, status: int) -> None:
    stream = asking.connect(KEY)
    asking.connection.refuse(stream, cause, "caf\u00e9\r\n" + "x" * 500)
    fields, ended = asking.answer()
    assert ended
    assert fields[b":status"] == b"%d" % status
    assert fields[b"tunnel-cause"] == cause.value.encode()
    assert fields[b"tunnel-detail"].startswith(b"caf???xxx")
    assert len(fields[b"tunnel-detail"]) == 200
    assert stream.end_cause is EndCause.REFUSED
    asking.peer.receive(data(1, end=True))
    assert not asking.connection._h2.streams
    assert asking.peer.session.budget.used == 0


def test_answering_what_has_gone_does_nothing(asking: Asking) -> None:
    for answer in (asking.connection.accept, lambda stream: asking.connection.refuse(stream, Cause.FAILED)):
        stream = asking.connect()
        assert asking.peer.receive(reset(stream.stream_id)) == [StreamReset(stream)]
        answer(stream)
        assert asking.peer.take() == []
        assert stream.end_cause is EndCause.PEER_RESET


def test_a_stock_client_brings_no_key(asking: Asking) -> None:
    one, other = asking.connect(), asking.connect()
    assert one.key != other.key
    assert one.key >= 1 << 63


@pytest.mark.parametrize(
    "authority",
    [
        b"target",
        b"target:",
        b"target:0",
        b"target:99999",
        b":80",
        b"::1:80",
        b"a b:80",
        b"t\xe9:80",
        b"u@t:80",
    ],
)
def test_an_authority_that_is_none(asking: Asking, authority: bytes) -> None:
    assert asking.ask((b":method", b"CONNECT"), (b":authority", authority), end=False) == []
    assert asking.answer() == ({b":status": b"400"}, True)
    assert not asking.peer.session.streams


def test_a_connect_that_ends_at_once(asking: Asking) -> None:
    assert asking.ask(*CONNECT) == []
    assert asking.answer() == ({b":status": b"400"}, True)


def test_extended_connect_was_not_offered(asking: Asking) -> None:
    extended = [*request(b"CONNECT", b"/chat"), (b":protocol", b"websocket")]
    assert asking.ask(*extended, end=False) == []
    assert asking.answer() == ({b":status": b"400"}, True)


@pytest.mark.parametrize(
    "headers",
    [
        [*CONNECT, (b":authority", b"other:80")],
        [*CONNECT, (b":path", b"/")],
        [(b":method", b"CONNECT")],
        [*CONNECT, (b"Upper", b"case")],
        [*CONNECT, (b"connection", b"close")],
        [*CONNECT, (b"content-length", b"many")],
    ],
)
def test_malformed_requests_end_the_link(asking: Asking, headers: list[tuple[bytes, bytes]]) -> None:
    assert fails(asking.peer, asking.peer.headers(1, headers)) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "key",
    [b"1", b"0x00000000000001", b"-00000000000000f", b"0_0000000000000f", b"00000000000000AA", b"\xff" * 16],
)
def test_a_malformed_key_ends_the_link(asking: Asking, key: bytes) -> None:
    frame = asking.peer.headers(1, [*CONNECT, (b"tunnel-key", key)])
    assert fails(asking.peer, frame) is ErrorCode.PROTOCOL_ERROR


def test_a_key_in_use_ends_the_link(asking: Asking) -> None:
    asking.connect(KEY)
    assert fails(asking.peer, asking.peer.headers(3, [*CONNECT, KEY])) is ErrorCode.PROTOCOL_ERROR


def test_nothing_is_resumed_here(asking: Asking) -> None:
    # Dialling anew would join the rest of one connection to the start of another.
    assert asking.ask(*CONNECT, KEY, (b"tunnel-state", b"open"), end=False) == []
    fields, ended = asking.answer()
    assert ended
    assert (fields[b":status"], fields[b"tunnel-cause"]) == (b"410", b"gone")


def resuming() -> tuple[Asking, Stream]:
    """An open stream with a server that resumes streams."""
    asking = Asking()
    asking.ask(*request(b"GET", b"/hello"), (b"tunnel-capabilities", b"resume"), (b"tunnel-grace", b"90"))
    asking.answer()
    stream = asking.connect(KEY, *OFFSETS)
    Face(stream)
    asking.connection.accept(stream)
    asking.answer()
    return asking, stream


def again(epoch: bytes, received: bytes = b"0", limit: bytes = b"65536") -> list[tuple[bytes, bytes]]:
    """CONNECT for the same stream."""
    fields = [(b"tunnel-state", b"open"), (b"tunnel-received", received), (b"tunnel-limit", limit)]
    return [*CONNECT, KEY, (b"tunnel-epoch", epoch), *fields]


def test_a_stream_goes_on_under_another_id() -> None:
    asking, stream = resuming()
    asking.peer.receive(data(3, b"four"))
    stream.write(b"sent")
    asking.peer.take()
    asking.ask(*again(b"2", b"1"), end=False)
    reset_old, answer, rest = asking.peer.take()
    assert (reset_old.kind, reset_old.stream_id) == (frames.RST_STREAM, 3)
    assert dict(asking.decoder.decode(answer.payload, raw=True))[b"tunnel-received"] == b"4"
    assert (rest.stream_id, rest.payload) == (5, b"ent")
    assert stream.state is State.OPEN


@pytest.mark.parametrize("epoch", [b"1", b"0"])
def test_a_stale_request_steals_no_stream(epoch: bytes) -> None:
    asking, stream = resuming()
    assert asking.ask(*again(epoch), end=False) == []
    fields, ended = asking.answer()
    assert (fields[b":status"], fields[b"tunnel-cause"], ended) == (b"410", b"gone", True)
    asking.peer.receive(data(3, b"goes on"))
    assert stream.incoming.received == 7


@pytest.mark.parametrize("suspended", [False, True])
@pytest.mark.parametrize(
    ("reason", "over"),
    [(b"shutdown", True), (b"expired", False), (b"replaced", False), (b"of a later version", False)],
)
def test_of_a_server_that_goes_nothing_waits_for_another_link(
    reason: bytes, over: bool, suspended: bool
) -> None:
    asking, stream = resuming()
    session, now = stream.session, asking.peer.now
    if suspended:
        session.lose_link(asking.connection, now)
        assert stream.state is State.SUSPENDED
    asking.ask(*request(b"POST", b"/drain"), (b"tunnel-reason", reason))
    if not suspended:
        assert stream.state is State.OPEN, "it goes on where it is"
        assert session.lose_link(asking.connection, now) == ([stream] if over else [])
    assert stream.state is (State.CLOSED if over else State.SUSPENDED)
    assert not over or stream.end_cause is (EndCause.SERVER_LEFT if suspended else EndCause.LINK_LOST)


def test_what_has_ended_both_ways_is_delivered_whatever_becomes_of_the_link() -> None:
    asking, stream = resuming()
    session, now = stream.session, asking.peer.now
    asking.ask(*request(b"POST", b"/drain"), (b"tunnel-reason", b"shutdown"))
    asking.peer.receive(data(3, b"the rest", end=True))
    Face.on_data(face := Face(stream), memoryview(b"the rest"))
    stream.write_end()
    asking.peer.take()
    assert session.lose_link(asking.connection, now) == []
    assert face.told == []
    assert stream.state is State.ENDED
    assert consume(stream, 100, now) == b"the rest"
    assert (stream.state, stream.end_cause) == (State.CLOSED, EndCause.FINISHED)


@pytest.mark.parametrize(
    ("received", "limit"), [(b"1", b"65536"), (b"x", b"65536"), (b"0", b"-1"), (b"0", b""), (b"9" * 16, b"9")]
)
def test_what_cannot_be_is_a_reset(received: bytes, limit: bytes) -> None:
    asking, stream = resuming()
    assert asking.ask(*again(b"2", received, limit), end=False) == []
    fields, ended = asking.answer()
    assert (fields[b":status"], fields[b"tunnel-cause"], ended) == (b"410", b"reset", True)
    assert (stream.state, stream.end_cause) == (State.CLOSED, EndCause.PROTOCOL)
    assert isinstance(stream.session, type(asking.peer.session))
    assert asking.peer.session.budget.used == 0


def test_what_was_acknowledged_is_not_sent_again() -> None:
    asking, stream = resuming()
    stream.write(b"sent")
    asking.peer.take()
    stream.outgoing.acknowledge(4)
    asking.ask(*again(b"2", b"3"), end=False)
    assert asking.answer()[0][b"tunnel-cause"] == b"reset"


@pytest.mark.parametrize("epoch", [b"two", b"-1", b"9" * 16])
def test_an_epoch_that_is_no_number_ends_the_link(epoch: bytes) -> None:
    asking, _ = resuming()
    assert fails(asking.peer, asking.peer.headers(5, again(epoch))) is ErrorCode.PROTOCOL_ERROR


def test_a_stream_that_was_reset_stays_so() -> None:
    asking, stream = resuming()
    stream.reset(ErrorCode.CANCEL)
    asking.peer.take()
    asking.ask(*again(b"2"), end=False)
    assert asking.answer()[0][b"tunnel-cause"] == b"reset"


def test_more_streams_than_there_is_memory_for() -> None:
    asking = Asking()
    told: list[str] = []
    asking.connection._on_no_room = told.append
    asking.peer.session.budget.total = 3 * 128 * 1024
    for _ in range(3):
        asking.connect()
    assert asking.ask(*CONNECT, end=False) == []
    fields, _ = asking.answer()
    assert (fields[b":status"], fields[b"tunnel-cause"]) == (b"503", b"no-room")
    assert fields[b"tunnel-detail"] == b"at the agent, the memory budget for streams is used up"
    assert told == ["the memory budget for streams is used up"]


def test_more_streams_than_were_announced_end_the_link() -> None:
    asking = Asking(WireLimits(max_streams=2))
    asking.connect()
    asking.connect()
    # The place for requests about the link.
    assert asking.ask(*CONNECT, end=False) == []
    fields, _ = asking.answer()
    assert (fields[b":status"], fields[b"tunnel-cause"]) == (b"503", b"no-room")
    assert fails(asking.peer, asking.peer.headers(7, CONNECT)) is ErrorCode.PROTOCOL_ERROR


def test_a_body_announced_with_connect_is_none(asking: Asking) -> None:
    stream = asking.connect((b"content-length", b"3"))
    asking.connection.accept(stream)
    asking.peer.receive(data(1, b"more than three"), data(1, end=True))
    assert stream.incoming.end == 15
    assert stream.state is State.OPEN


def test_a_response_from_the_server_ends_the_link(asking: Asking) -> None:
    assert fails(asking.peer, asking.peer.headers(1, [(b":status", b"200")])) is ErrorCode.PROTOCOL_ERROR
