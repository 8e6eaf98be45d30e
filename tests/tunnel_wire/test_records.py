"""TLS 1.3's records: by the RFC's own bytes, against OpenSSL, and whatever is made wrong by hand."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from typing import NoReturn

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st

from tests.tunnel_wire import key_updates
from tests.tunnel_wire.handshakes import (
    AES_128,
    ALERT,
    CAN_CHOOSE,
    DATA,
    HANDSHAKE,
    ByHand,
    cut,
    read,
    shaken,
)
from tests.tunnel_wire.links import new_contexts
from tunnel_wire.record_sizes import MOST_CONTENT, OVERHEAD, sealed_size
from tunnel_wire.records import SUITES, Keys, Opener, Sealer, expand_label
from tunnel_wire.tls import TlsBroken, TlsEnded, TlsPump

SECRET = bytes(range(32))
TICKET = bytes.fromhex("04 000015 00000e10 00000000 08 0000000000000000 0000 0000")
ROOM = 1 << 18

UNEXPECTED_MESSAGE, BAD_RECORD_MAC, RECORD_OVERFLOW, ILLEGAL_PARAMETER, DECODE_ERROR = 10, 20, 22, 47, 50


def opener(
    records: int = 0, *, of_server: bool = False, secret: bytes = SECRET, suite: str = AES_128
) -> Opener:
    return Opener(Keys(suite, secret, records), of_server=of_server)


def sealer(records: int = 0) -> Sealer:
    return Sealer(Keys(AES_128, SECRET, records))


def by_hand(records: int = 0) -> ByHand:
    return ByHand(AES_128, SECRET, records)


def seal(sealer: Sealer, *pieces: bytes) -> bytes:
    target = memoryview(bytearray(sealed_size(sum(map(len, pieces)))))
    size = sealer.seal(pieces, target, memoryview(bytearray(MOST_CONTENT + 1)))
    return bytes(target[:size])


def opened(opener: Opener, wire: bytes, room: int = ROOM) -> bytes:
    """The content of these records, all of which must be whole."""
    source, target, content = memoryview(wire), memoryview(bytearray(room)), b""
    while True:
        size = opener.open(source, target)
        content += target[:size]
        source = source[opener.taken :]
        if not opener.full:
            assert not source or opener.ended
            return content


def refused(opener: Opener, wire: bytes) -> int | None:
    """The alert for it."""
    with pytest.raises(TlsBroken) as broken:
        opened(opener, wire)
    return broken.value.alert


def agreed(pump: TlsPump, *, of_server: bool) -> tuple[Sealer, Opener]:
    found = pump.agreed()
    assert found is not None
    suite, ours, theirs = found
    return Sealer(Keys(suite, ours)), opener(of_server=of_server, secret=theirs, suite=suite)


# --- RFC 8448, section 3 ----------------------------------------------------------------------------

CLIENT_SECRET = bytes.fromhex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5")
SERVER_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
FIFTY = bytes(range(50))
CLIENT_WIRE = [
    bytes.fromhex(
        "1703030043 a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20"
        "441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
    ),
    bytes.fromhex("1703030013 c9872760655666b74d7ff1153efd6db6d0b0e3"),
]
SERVER_WIRE = [
    bytes.fromhex(
        "17030300de 3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758"
        "db289a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4"
        "a3d03f75e09c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475"
        "840025db2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e9"
        "52ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f"
    ),
    bytes.fromhex(
        "1703030043 2e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb50"
        "1a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d"
    ),
    bytes.fromhex("1703030013 b58fd67166ebf599d24720cfbe7efa7a8864a9"),
]


@pytest.mark.parametrize(
    ("secret", "key", "iv"),
    [
        (CLIENT_SECRET, "17422dda596ed5d9acd890e3c63f5051", "5b78923dee08579033e523d9"),
        (SERVER_SECRET, "9f02283b6c9c07efc26bb9f2ac92e356", "cf782b88dd83549aadf1e984"),
    ],
)
def test_keys_of_the_rfc(secret: bytes, key: str, iv: str) -> None:
    assert expand_label(secret, "key", 16, "sha256").hex() == key
    assert expand_label(secret, "iv", 12, "sha256").hex() == iv
    assert Keys(AES_128, secret).iv == int(iv, 16)


@pytest.mark.parametrize(
    ("secret", "of_server", "wire"), [(CLIENT_SECRET, False, CLIENT_WIRE), (SERVER_SECRET, True, SERVER_WIRE)]
)
def test_records_of_the_rfc(secret: bytes, of_server: bool, wire: list[bytes]) -> None:
    theirs = opener(of_server=of_server, secret=secret)
    assert opened(theirs, b"".join(wire)) == FIFTY
    assert theirs.ended
    ours = Sealer(Keys(AES_128, secret, len(wire) - 2))
    assert [seal(ours, FIFTY), ours.close_notify()] == wire[-2:]


def test_a_suite_that_nobody_has() -> None:
    with pytest.raises(ValueError, match="not known"):
        Keys("TLS_AES_128_CCM_SHA256", SECRET)


def test_a_suite_that_this_machine_forbids(monkeypatch: pytest.MonkeyPatch) -> None:
    """As FIPS does with ChaCha20."""

    def forbidden(key: bytes) -> NoReturn:
        raise UnsupportedAlgorithm("ChaCha20Poly1305 is not supported by this version of OpenSSL")

    monkeypatch.setitem(SUITES, AES_128, (forbidden, 16, "sha256"))
    with pytest.raises(ValueError, match="not supported"):
        Keys(AES_128, SECRET)


# --- OpenSSL at the other end -----------------------------------------------------------------------


@pytest.mark.skipif(not CAN_CHOOSE, reason="needs an ordinary build of CPython")
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("as_server", [True, False], ids=["as server", "as client"])
def test_each_suite_with_openssl_at_the_other_end(suite: str, as_server: bool) -> None:
    server, client = shaken(suite=suite)
    here, there = (server, client) if as_server else (client, server)
    found = here.agreed()
    assert found is not None
    assert found[0] == suite
    ours, theirs = agreed(here, of_server=not as_server)
    for round_ in range(3):
        content = random.Random(round_).randbytes(50_000)
        assert read(there, seal(ours, content)) == content
        there.write([content[::-1]], len(content))
        assert opened(theirs, there.ciphertext()) == content[::-1]
        if key_updates.available:
            assert there._ssl is not None
            key_updates.ask_for_new_keys(there._ssl)
            assert opened(theirs, there.ciphertext()) == b""
            assert theirs.updates == theirs.asked == round_ + 1
        assert read(there, ours.update()) == b""
    with pytest.raises(TlsEnded):
        read(there, ours.close_notify())
    there.close_notify()
    assert opened(theirs, there.ciphertext()) == b""
    assert theirs.ended


def test_openssl_hears_of_an_alert() -> None:
    server, client = shaken()
    ours, _ = agreed(server, of_server=False)
    with pytest.raises(OSError, match="BAD_RECORD_MAC"):
        read(client, ours.alert(BAD_RECORD_MAC))


@pytest.mark.parametrize("small", [False, True])
def test_new_keys_in_time(small: bool) -> None:
    by = (lambda sealer, content: sealer.seal_small([content])) if small else seal
    assert len(by(sealer((1 << 24) - 2), b"x")) == OVERHEAD + 1
    ours, theirs = sealer((1 << 24) - 1), opener((1 << 24) - 1)
    first, update = cut(by(ours, b"x"))
    assert opened(theirs, first) == b"x"
    assert theirs.updates == 0
    assert opened(theirs, update) == b""
    assert (theirs.updates, theirs.asked) == (1, 0)
    assert opened(theirs, by(ours, b"y")) == b"y"
    assert theirs.updates == 1


def test_openssl_understands_new_keys_of_our_own_accord() -> None:
    server, client = shaken()
    found = server.agreed()
    assert found is not None
    keys = Keys(*found[:2], 1 << 24)
    keys.iv ^= 1 << 24  # to OpenSSL, the first record's number is 0
    ours = Sealer(keys)
    wire = seal(ours, bytes(100_000))
    assert len(cut(wire)) == 7 + 1
    assert read(client, wire) == bytes(100_000)
    assert read(client, seal(ours, b"more")) == b"more"


def test_openssl_without_secrets_agrees_on_nothing() -> None:
    assert shaken(new_contexts(log_secrets=False))[0].agreed() is None


# --- sizes and pieces -------------------------------------------------------------------------------

EDGES = [1, 2, MOST_CONTENT - 1, MOST_CONTENT, MOST_CONTENT + 1, 2 * MOST_CONTENT, 2 * MOST_CONTENT + 1]


@pytest.mark.parametrize("size", EDGES)
def test_sizes_of_records(size: int) -> None:
    content = random.Random(size).randbytes(size)
    wire = seal(sealer(), content)
    lengths = [len(record) - OVERHEAD for record in cut(wire)]
    assert sum(lengths) == size
    assert all(length == MOST_CONTENT for length in lengths[:-1])
    assert len(wire) <= sealed_size(size)
    assert opened(opener(), wire) == content


@pytest.mark.parametrize("room", [MOST_CONTENT + 256, MOST_CONTENT + 700, 3 * MOST_CONTENT])
def test_little_room_costs_nothing_but_calls(room: int) -> None:
    content = random.Random(room).randbytes(100_000)
    assert opened(opener(), seal(sealer(), content), room) == content


def test_pieces_share_records() -> None:
    pieces = [b"", b"a", b"", bytes(MOST_CONTENT), b"", b"bc", b""]
    wire = seal(sealer(), *pieces)
    assert [len(record) - OVERHEAD for record in cut(wire)] == [MOST_CONTENT, 3]
    assert opened(opener(), wire) == b"".join(pieces)
    assert seal(sealer(), b"", b"") == b""


@pytest.mark.parametrize("size", [1, 2, 1000, MOST_CONTENT - 1, MOST_CONTENT])
def test_a_message_becomes_the_same_record_by_the_short_way(size: int) -> None:
    content = random.Random(size).randbytes(size)
    one, other = sealer(5), sealer(5)
    for _ in range(2):
        wire = seal(one, content)
        assert other.seal_small([content[:1], b"", memoryview(content)[1:]]) == wire
    assert opened(opener(6), wire) == content


def test_a_record_that_is_not_whole_waits() -> None:
    wire, target = seal(sealer(), b"hello"), memoryview(bytearray(ROOM))
    theirs = opener()
    for size in range(len(wire)):
        assert theirs.open(memoryview(wire[:size]), target) == 0
        assert theirs.taken == 0
        assert not theirs.full
    assert opened(theirs, wire) == b"hello"


def test_the_most_that_openssl_may_seal_into_one_record() -> None:
    """Padding counts (section 5.4)."""
    there = by_hand()
    assert opened(opener(), there.record(bytes(MOST_CONTENT - 1), padding=1)) == bytes(MOST_CONTENT - 1)
    assert refused(opener(), by_hand().record(bytes(MOST_CONTENT + 1))) == RECORD_OVERFLOW


def test_padding_is_taken_away() -> None:
    there, theirs = by_hand(), opener()
    for content in (b"x", b"x\0", b"\0", b"\0\0\0", b"", b"x" * 1000):
        for padding in (0, 1, 255, 15_000):
            assert opened(theirs, there.record(content, padding=padding)) == content
    assert opened(theirs, there.record(b"a\0", padding=3) + there.record(b"\0b", padding=1)) == b"a\0\0b"
    there.record(b"")  # is not delivered: what is padded has a number as well
    assert refused(theirs, there.record(b"x", padding=1)) == BAD_RECORD_MAC


def test_padding_is_no_work() -> None:
    """Byte by byte it would be 0.7 ms a record."""
    plain, padded = by_hand(), by_hand()
    full = b"".join(plain.record(bytes(15_000)) for _ in range(10))
    empty = b"".join(padded.record(b"x", padding=14_999) for _ in range(10))
    assert _lines(empty) <= _lines(full) + 10 * 5


def _lines(wire: bytes) -> int:
    """Lines of Python that it takes to open this; none of what is compiled."""
    count = 0

    def note(frame: object, event: str, argument: object) -> object:
        nonlocal count
        count += event == "line"
        return note

    before = sys.gettrace()
    theirs, target = opener(), memoryview(bytearray(ROOM))
    sys.settrace(note)  # type: ignore[arg-type]
    try:
        theirs.open(memoryview(wire), target)
    finally:
        sys.settrace(before)
    return count


# --- what is no record, or not the next one -----------------------------------------------------------


def test_a_byte_changed_anywhere() -> None:
    wire = seal(sealer(), b"hello")
    for position in range(len(wire)):
        for bit in (1, 128):
            bad = bytearray(wire)
            bad[position] ^= bit
            if position in {3, 4}:
                bad += bytes(1000)  # so that what it now says it has is there, if it may be so long
            alert = refused(opener(), bytes(bad))
            expected = {0: {UNEXPECTED_MESSAGE}, 3: {BAD_RECORD_MAC, RECORD_OVERFLOW}}
            assert alert in expected.get(position, {BAD_RECORD_MAC}), position


@pytest.mark.parametrize(
    ("header", "alert"),
    [
        ("1603030020", UNEXPECTED_MESSAGE),
        ("1503030002", UNEXPECTED_MESSAGE),  # an alert that is not protected
        ("1403030001", UNEXPECTED_MESSAGE),
        ("0000000000", UNEXPECTED_MESSAGE),
        ("1703034101", RECORD_OVERFLOW),
        ("170303ffff", RECORD_OVERFLOW),
        ("1703030000", DECODE_ERROR),
        ("1703030010", DECODE_ERROR),
    ],
)
def test_a_header_is_refused_before_its_body_has_come(header: str, alert: int) -> None:
    assert refused(opener(), bytes.fromhex(header)) == alert


def test_the_longest_body_is_waited_for() -> None:
    target = memoryview(bytearray(ROOM))
    assert opener().open(memoryview(bytes.fromhex("1703034100")), target) == 0


def test_a_replayed_record() -> None:
    theirs, wire = opener(), seal(sealer(), b"once")
    assert opened(theirs, wire) == b"once"
    assert refused(theirs, wire) == BAD_RECORD_MAC


def test_records_in_another_order() -> None:
    first, second = cut(seal(sealer(), bytes(MOST_CONTENT + 1)))
    assert refused(opener(), second + first) == BAD_RECORD_MAC


def test_a_dropped_record() -> None:
    first, _, third = cut(seal(sealer(), bytes(2 * MOST_CONTENT + 1)))
    assert refused(opener(), first + third) == BAD_RECORD_MAC


def test_our_own_record_sent_back() -> None:
    server, _ = shaken()
    ours, theirs = agreed(server, of_server=False)
    assert refused(theirs, seal(ours, b"mirror")) == BAD_RECORD_MAC


def test_a_record_of_old_keys_behind_new_ones() -> None:
    there = by_hand()
    old = by_hand(records=1).record(b"old")
    theirs = opener()
    assert refused(theirs, there.key_update() + old) == BAD_RECORD_MAC


# --- what a record may hold ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [20, 24, 25, 255])
def test_content_of_another_type(kind: int) -> None:
    for content in (b"", b"\1", b"\1\0", bytes([24, 0, 0, 1, 0])):
        assert refused(opener(), by_hand().record(content, kind)) == UNEXPECTED_MESSAGE


def test_a_record_of_zeros() -> None:
    assert refused(opener(), by_hand().record(bytes(1000), None)) == UNEXPECTED_MESSAGE
    assert refused(opener(), by_hand().record(b"", 0)) == UNEXPECTED_MESSAGE
    # Nor is the type to be found in the record before.
    for kind in (ALERT, HANDSHAKE, DATA):
        there = by_hand()
        wire = there.record(bytes([kind])) + there.record(bytes(1000), None)
        assert refused(opener(), wire) == UNEXPECTED_MESSAGE


def test_empty_records_are_taken_but_not_without_end() -> None:
    there, theirs = by_hand(), opener()
    for _ in range(3):
        assert opened(theirs, b"".join(there.record(b"") for _ in range(32))) == b""
        assert opened(theirs, there.record(b"x")) == b"x"
    assert opened(theirs, b"".join(there.record(b"", padding=9) for _ in range(32))) == b""
    assert refused(theirs, there.record(b"")) == UNEXPECTED_MESSAGE


@pytest.mark.parametrize("what", ["tickets", "many tickets in one", "user_canceled"])
def test_messages_of_no_use_are_not_taken_without_end(what: str) -> None:
    there, theirs = by_hand(), opener(of_server=True)
    kind, content = (ALERT, b"\1\x5a") if what == "user_canceled" else (HANDSHAKE, TICKET)
    assert opened(theirs, b"".join(there.record(content, kind) for _ in range(32))) == b""
    assert opened(theirs, there.record(b"x")) == b"x"
    if what == "many tickets in one":
        assert refused(theirs, there.record(33 * TICKET, HANDSHAKE)) == UNEXPECTED_MESSAGE
    else:
        assert refused(theirs, b"".join(there.record(content, kind) for _ in range(33))) == UNEXPECTED_MESSAGE


# --- messages of the handshake behind it ---------------------------------------------------------------


@pytest.mark.parametrize("asks", [0, 1])
def test_a_key_update(asks: int) -> None:
    there, theirs = by_hand(), opener()
    wire = there.record(b"old ") + there.key_update(asks) + there.record(b"new ") + there.key_update(0)
    assert opened(theirs, wire + there.record(b"newest")) == b"old new newest"
    assert (theirs.updates, theirs.asked) == (2, asks)


def test_a_flood_of_key_updates_is_taken_by_sixteen() -> None:
    there, theirs = by_hand(), opener()
    wire, target = memoryview(b"".join(there.key_update() for _ in range(40))), memoryview(bytearray(ROOM))
    taken = []
    while True:
        assert theirs.open(wire, target) == 0
        taken.append(theirs.updates)
        wire = wire[theirs.taken :]
        if not theirs.full:
            break
    assert taken == [16, 32, 40]
    assert not wire


@pytest.mark.parametrize(
    ("content", "alert"),
    [
        ("18 000001 02", ILLEGAL_PARAMETER),
        ("18 000000", DECODE_ERROR),
        ("18 000002 0000", DECODE_ERROR),
        ("18 000001", UNEXPECTED_MESSAGE),  # it goes on in another record
        ("18 0000", UNEXPECTED_MESSAGE),
        ("18 000001 00 00", UNEXPECTED_MESSAGE),
        ("18 000001 00 18 000001 00", UNEXPECTED_MESSAGE),
        ("18 000001 00" + TICKET.hex(), UNEXPECTED_MESSAGE),
        ("", UNEXPECTED_MESSAGE),
        ("01 000000", UNEXPECTED_MESSAGE),  # ClientHello
        ("02 000000", UNEXPECTED_MESSAGE),
        ("05 000000", UNEXPECTED_MESSAGE),
        ("0d 000000", UNEXPECTED_MESSAGE),  # CertificateRequest: nobody has offered that
        ("14 000000", UNEXPECTED_MESSAGE),  # Finished
        ("00 000000", UNEXPECTED_MESSAGE),
    ],
)
def test_messages_that_are_refused(content: str, alert: int) -> None:
    theirs = opener(of_server=True)
    assert refused(theirs, by_hand().record(bytes.fromhex(content), HANDSHAKE)) == alert
    assert theirs.updates == 0


def test_session_tickets_are_a_servers() -> None:
    there, theirs = by_hand(), opener(of_server=True)
    assert opened(theirs, there.record(TICKET, HANDSHAKE) + there.record(b"x")) == b"x"
    assert opened(theirs, there.record(2 * TICKET, HANDSHAKE, padding=5) + there.record(b"y")) == b"y"
    with_update = there.record(TICKET + bytes([24, 0, 0, 1, 0]), HANDSHAKE)
    assert opened(theirs, with_update) == b""
    assert theirs.updates == 1
    assert refused(opener(), by_hand().record(TICKET, HANDSHAKE)) == UNEXPECTED_MESSAGE
    assert refused(opener(of_server=True), by_hand().record(TICKET[:-1], HANDSHAKE)) == UNEXPECTED_MESSAGE


def test_openssls_session_tickets() -> None:
    server_context, client_context = new_contexts()
    server_context.num_tickets = 2
    server, client = shaken((server_context, client_context))
    _, theirs = agreed(client, of_server=True)
    tickets = server.ciphertext()
    assert len(cut(tickets)) == 2
    assert server.agreed() is None, "its keys have been used"
    server.write([b"hello"], 5)
    assert opened(theirs, tickets + server.ciphertext()) == b"hello"


# --- alerts --------------------------------------------------------------------------------------------


def test_nothing_counts_behind_close_notify() -> None:
    there, theirs = by_hand(), opener()
    wire = there.record(b"last") + there.record(b"\1\0", ALERT)
    assert opened(theirs, wire + there.record(b"more") + b"garbage") == b"last"
    assert theirs.ended
    assert theirs.taken == len(wire)
    assert opened(theirs, there.record(b"more")) == b""


def test_user_canceled_is_followed_by_close_notify() -> None:
    there, theirs = by_hand(), opener()
    assert opened(theirs, there.record(b"\1\x5a", ALERT) + there.record(b"x")) == b"x"
    assert not theirs.ended


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("alert", [1, 10, 20, 42, 80, 89, 100, 255])
def test_any_other_alert_is_the_end(alert: int, level: int) -> None:
    """Whatever level it has (section 6)."""
    theirs = opener()
    with pytest.raises(TlsBroken, match="alert ") as broken:
        opened(theirs, by_hand().record(bytes([level, alert]), ALERT))
    assert broken.value.alert is None, "there is nobody to be told"


@pytest.mark.parametrize(
    ("content", "alert"), [(b"", UNEXPECTED_MESSAGE), (b"\1", DECODE_ERROR), (b"\1\0\1\0", DECODE_ERROR)]
)
def test_a_malformed_alert(content: bytes, alert: int) -> None:
    assert refused(opener(), by_hand().record(content, ALERT)) == alert


# --- anything ------------------------------------------------------------------------------------------


@given(
    pieces=st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 40_000).map(bytes)), max_size=8),
    updates=st.sets(st.integers(0, 7)),
    cuts=st.lists(st.integers(1, 20_000), min_size=1, max_size=20),
    room=st.integers(MOST_CONTENT + 256, 50_000),
)
def test_any_pieces_cut_anywhere(pieces: list[bytes], updates: set[int], cuts: list[int], room: int) -> None:
    ours, theirs = sealer(), opener()
    wire = b""
    for number, piece in enumerate(pieces):
        wire += seal(ours, piece[:9], b"", piece[9:])
        if number in updates:
            wire += ours.update()
    target, content, tail = memoryview(bytearray(room)), b"", b""
    while wire:
        size = cuts[len(wire) % len(cuts)]
        source, wire = memoryview(tail + wire[:size]), wire[size:]
        theirs.full = True
        while theirs.full:
            content += target[: theirs.open(source, target)]
            source = source[theirs.taken :]
        tail = bytes(source)
    assert content == b"".join(pieces)
    assert theirs.updates == len(updates & set(range(len(pieces))))
    assert not tail


@given(st.binary(max_size=200), st.sampled_from([DATA, HANDSHAKE, ALERT]))
def test_whatever_is_in_a_record_is_taken_or_refused(content: bytes, kind: int) -> None:
    with suppress(TlsBroken):
        opened(opener(of_server=True), by_hand().record(content, kind))
