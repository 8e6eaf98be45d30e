"""Both parts of a link's TLS, and the change from one to the other, without sockets."""

from __future__ import annotations

import random
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.handshakes import ALERT, HANDSHAKE, TAKEN_WITHOUT_ASKING, ByHand, read, shaken
from tests.tunnel_wire.links import alive, contexts, new_contexts
from tunnel_wire import link_tls
from tunnel_wire.link_buffers import PIECE, LinkBuffers
from tunnel_wire.link_tls import LinkTls
from tunnel_wire.record_sizes import KEY_UPDATE, MOST_CONTENT
from tunnel_wire.records import SUITES
from tunnel_wire.tls import TlsBroken, TlsEnded, TlsPump

BUFFERS = LinkBuffers()
needs_key_updates = pytest.mark.skipif(not key_updates.available, reason="needs an ordinary build of CPython")


class End:
    """One end, used as a link uses it, and what is on the way to it."""

    def __init__(self, pump: TlsPump) -> None:
        self.tls = LinkTls(pump, BUFFERS)
        self.pump = pump
        self.arriving = b""
        self.received = b""
        self.peer = self

    def send(self, *pieces: bytes) -> None:
        self.peer.arriving += self.tls.seal(pieces, sum(map(len, pieces)))

    def receive(self, most: int = 1 << 30) -> None:
        buffer = BUFFERS.ciphertext
        while most > 0 and self.arriving:
            begun = self.tls.begin_read(buffer)
            size = min(most, PIECE, len(self.arriving))
            buffer[begun : begun + size] = self.arriving[:size]
            self.arriving = self.arriving[size:]
            most -= size
            self.tls.feed(buffer[: begun + size])
            self.take()
            buffer[:] = bytes(len(buffer))  # others' turn
            if self.tls.pending:
                self.send()

    def take(self) -> None:
        self.tls.drained = False
        while not self.tls.drained:
            size = self.tls.read_into(BUFFERS.plaintext)
            self.received += BUFFERS.plaintext[:size]

    def new_keys(self) -> None:
        """Change our keys, and ask for theirs if OpenSSL is who says it."""
        if self.tls._sealer is not None:
            self.tls._queued += self.tls._sealer.update()
        else:
            assert self.pump._ssl is not None
            key_updates.ask_for_new_keys(self.pump._ssl)
        self.send()


def pair(*taken_over: str) -> tuple[End, End]:
    """A server and a client; these of them have been taken over."""
    server, client = map(End, shaken())
    server.peer, client.peer = client, server
    for name, end in (("server", server), ("client", client)):
        assert name not in taken_over or end.tls.take_over()
    return server, client


def some(size: int) -> bytes:
    return random.Random(size).randbytes(size)


BOTH_WAYS = pytest.mark.parametrize("taken_over", [(), ("server",), ("client",), ("server", "client")])


@BOTH_WAYS
def test_bytes_both_ways(taken_over: tuple[str, ...]) -> None:
    server, client = pair(*taken_over)
    for size in (1, MOST_CONTENT, MOST_CONTENT + 1, PIECE, 2 * PIECE, 5 * PIECE):
        for one in (server, client):
            one.peer.received = b""
            one.send(some(size), b"", b"more")
            one.peer.receive()
            assert one.peer.received == some(size) + b"more"
    assert not server.tls.pending
    assert server.tls.key_updates == client.tls.key_updates == 0


# --- the change ---------------------------------------------------------------------------------------


STEPS = st.tuples(
    st.booleans(),
    st.sampled_from(["send", "receive", "take over", "new keys"]),
    st.one_of(st.integers(1, 60), st.integers(1, 60_000)),
)


@given(st.lists(STEPS, max_size=30))
def test_taking_over_at_any_time_with_anything_on_the_way(steps: list[tuple[bool, str, int]]) -> None:
    ends = pair()
    sent = dict.fromkeys(ends, b"")
    for which, step, size in steps:
        end = ends[which]
        match step:
            case "send":
                sent[end] += some(size)
                end.send(some(size)[:7], some(size)[7:])
            case "receive":
                end.receive(size)
            case "take over":
                end.tls.take_over()
            case "new keys" if end.tls.taken_over:
                end.new_keys()
    for _ in range(2):
        for end in ends:
            end.receive()
    for end in ends:
        assert end.peer.received == sent[end]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_came_with_the_end_of_the_handshake(at_once: bool, whole: bool) -> None:
    server, client = TlsPump(contexts()[0], server_side=True), TlsPump(contexts()[1], server_hostname="test")
    client.handshake_step()
    server.feed(client.ciphertext())
    server.handshake_step()
    client.feed(server.ciphertext())
    assert client.handshake_step()
    finished = client.ciphertext()
    client.write([some(50_000)], 50_000)
    data = client.ciphertext()
    early = len(data) if whole else 30_000
    server.feed(finished + data[:early])
    assert server.handshake_step()
    end = End(server)
    assert not at_once or end.tls.take_over()
    end.take()
    assert at_once or end.tls.take_over()
    end.arriving = data[early:]
    end.receive()
    assert end.received == some(50_000)


@BOTH_WAYS
def test_a_record_s_beginning_stays_when_nothing_follows(taken_over: tuple[str, ...]) -> None:
    server, client = pair(*taken_over)
    server.send(b"hello")
    wire, client.arriving = client.arriving, client.arriving[:20]
    client.receive()
    for _ in range(2):  # a read that finds nothing
        buffer = bytearray(100)
        assert client.tls.begin_read(memoryview(buffer)) == 20
        assert buffer[:20] == wire[:20]
    client.arriving = wire[20:]
    client.receive()
    assert client.received == b"hello"
    assert client.tls.begin_read(BUFFERS.ciphertext) == 0


def test_it_is_taken_over_once() -> None:
    server, client = pair("server")
    assert server.tls.taken_over
    assert not server.tls.take_over()
    assert not client.tls.taken_over


def test_openssl_s_part_is_let_go_with_its_secrets() -> None:
    before = alive(ssl.SSLObject)[ssl.SSLObject]
    server, _ = pair()
    assert alive(ssl.SSLObject)[ssl.SSLObject] == before + 2
    assert server.tls.take_over()
    assert alive(ssl.SSLObject)[ssl.SSLObject] == before + 1
    assert server.pump._secrets == (b"", b"")


def test_without_secrets_openssl_goes_on() -> None:
    server, client = map(End, shaken(new_contexts(log_secrets=False)))
    server.peer, client.peer = client, server
    assert not server.tls.take_over()
    server.send(b"hello")
    client.receive()
    assert client.received == b"hello"


@needs_key_updates
def test_openssl_goes_on_once_it_has_taken_new_keys() -> None:
    server, client = pair()
    client.new_keys()
    assert server.tls.take_over(), "it was on its way only"
    server, client = pair()
    client.new_keys()
    server.receive()
    assert not server.tls.take_over()
    for _ in range(2):
        for end in (server, client):
            end.send(b"x")
            end.peer.receive()
    assert server.received == client.received == b"xx"


@pytest.mark.parametrize("early", [True, False])
def test_a_client_that_gets_session_tickets(early: bool) -> None:
    both = new_contexts()
    both[0].num_tickets = 2
    pumps = shaken(both)
    tickets = pumps[0].ciphertext()
    server, client = map(End, pumps)
    server.peer, client.peer = client, server
    assert not server.tls.take_over(), "they have used its keys"
    assert not early or client.tls.take_over()
    client.arriving = tickets
    server.send(b"hello")
    client.receive()
    assert early or not client.tls.take_over(), "nobody can tell them from new keys"
    client.send(b"thanks")
    server.receive()
    assert (client.received, server.received) == (b"hello", b"thanks")


def test_a_record_that_is_padded_tells_of_nothing_else() -> None:
    """What was not data may have changed keys: then OpenSSL goes on."""
    server, client = pair()
    found = client.pump.agreed()
    assert found is not None
    server.arriving = ByHand(*found[:2]).record(b"x", padding=1)
    server.receive()
    assert server.received == b"x"
    assert not server.tls.take_over()


def test_openssl_goes_on_with_a_suite_that_is_forbidden_here(monkeypatch: pytest.MonkeyPatch) -> None:
    server, client = pair()
    monkeypatch.delitem(SUITES, TAKEN_WITHOUT_ASKING)
    for _ in range(2):
        assert not server.tls.take_over()
        server.send(b"x")
        client.receive()
    assert client.received == b"xx"


def test_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_tls, "_loaded", False)
    assert not link_tls.loaded()
    link_tls.load()
    assert link_tls.loaded()


# --- new keys, and our answers --------------------------------------------------------------------------


@needs_key_updates
@pytest.mark.parametrize("taken_over", [(), ("server",)])
def test_requests_for_new_keys_are_counted_and_answered(taken_over: tuple[str, ...]) -> None:
    server, client = pair(*taken_over)
    for number in range(1, 41):
        client.new_keys()
        if number % 20 == 0:
            client.send(b"x")
    server.tls.feed(memoryview(server.arriving))
    server.take()
    # OpenSSL's are counted by its answers, and it has the last one with what is sent next.
    assert server.tls.key_updates == (40 if taken_over else 39)
    server.send(b"answered")
    assert not server.tls.pending
    client.receive()
    assert (server.received, client.received) == (b"xx", b"answered")


@needs_key_updates
def test_one_answer_is_enough_for_sixteen_requests() -> None:
    server, client = pair("server")
    assert client.pump._ssl is not None
    for _ in range(16):
        key_updates.ask_for_new_keys(client.pump._ssl)
    client.send()
    server.receive()
    assert len(client.arriving) == KEY_UPDATE
    client.receive()
    server.send(b"x")
    client.receive()
    assert client.received == b"x"


def test_an_answer_goes_before_data_of_any_size() -> None:
    for size in (0, 1, MOST_CONTENT + 1, 3 * PIECE):
        server, client = pair("server", "client")
        server.tls._answer_update()
        assert server.tls.pending
        server.send(some(size))
        assert not server.tls.pending
        client.receive()
        assert client.received == some(size)
        assert client.tls.key_updates == 1
        assert not server.arriving, "it is not answered in turn"


# --- ends -----------------------------------------------------------------------------------------------


@BOTH_WAYS
def test_the_end(taken_over: tuple[str, ...]) -> None:
    server, client = pair(*taken_over)
    server.send(b"last words")
    client.arriving += server.tls.end()
    with pytest.raises(TlsEnded):
        client.receive()
    assert client.received == b"last words"
    client.tls.end()


def test_what_is_pending_goes_before_the_end() -> None:
    server, client = pair("server")
    server.tls._answer_update()
    with pytest.raises(TlsEnded):
        read(client.pump, server.tls.end())
    assert server.tls.end() == b"", "once is enough"
    assert server.tls.seal([b"x"], 1) == b"", "nothing comes behind it"


def test_nothing_is_given_that_comes_behind_the_end() -> None:
    server, client = pair("server")
    found = client.pump.agreed()
    assert found is not None
    there = ByHand(*found[:2])
    server.arriving = there.record(b"last") + there.record(b"\1\0", ALERT) + there.record(b"more")
    with pytest.raises(TlsEnded):
        server.receive()
    assert server.received == b"last"


# --- what is broken ---------------------------------------------------------------------------------------


def test_openssl_hears_that_it_was_not_understood() -> None:
    server, client = pair("server")
    client.send(some(100))
    good = server.arriving
    server.arriving = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(TlsBroken, match="bad record mac"):
        server.receive()
    assert server.received == b""
    assert server.tls.pending
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        read(client.pump, bytes(server.tls.seal([b"secret"], 6)))
    assert server.tls.seal([b"x"], 1) == server.tls.end() == b"", "an alert is the last that is said"


@needs_key_updates
def test_what_openssl_sends_in_alarm_ends_it_without_an_answer() -> None:
    server, client = pair("server")
    client.arriving = bytes.fromhex("1703030020") + bytes(32)
    with pytest.raises(ssl.SSLError):
        client.receive()
    server.arriving = client.pump.ciphertext()
    with pytest.raises(TlsBroken, match="alert bad record mac"):
        server.receive()
    assert not server.tls.pending
    assert server.tls.end() == b""


@BOTH_WAYS
@pytest.mark.parametrize(
    "wire",
    ["00", "1503030002 0228", "1403030001 01", "1703034101", "1603030010", "4745542f20"],
    ids=["zeros", "plain alert", "change of cipher", "too long", "handshake", "GET /"],
)
def test_what_is_no_record_is_not_waited_for(taken_over: tuple[str, ...], wire: str) -> None:
    server, client = pair(*taken_over)
    server.send(b"good")
    server.peer.arriving += bytes.fromhex(wire).ljust(7, b"\0")
    with pytest.raises((TlsBroken, ssl.SSLError)):
        client.receive()


@given(st.binary(min_size=1, max_size=80), st.booleans())
def test_no_garbage_is_taken_for_data(garbage: bytes, taken_over: bool) -> None:
    server, _ = pair(*["server"] * taken_over)
    server.arriving = garbage
    try:
        server.receive()
    except (TlsBroken, ssl.SSLError):
        pass
    else:
        assert server.tls.begin_read(BUFFERS.ciphertext) == len(garbage), "a record's beginning"
    assert server.received == b""


def test_messages_of_tls_that_are_no_ones_business() -> None:
    """A request for a certificate, which nobody here has offered to answer (section 4.2.6)."""
    server, client = pair("client")
    found = server.pump.agreed()
    assert found is not None
    client.arriving = ByHand(*found[:2]).record(bytes.fromhex("0d000000"), HANDSHAKE)
    with pytest.raises(TlsBroken) as broken:
        client.receive()
    assert broken.value.alert == 10
    with pytest.raises(ssl.SSLError, match="UNEXPECTED_MESSAGE"):
        read(server.pump, bytes(client.tls.seal([], 0)))
