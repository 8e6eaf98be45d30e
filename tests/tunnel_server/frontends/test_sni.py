"""Edges by server name: hellos of a real TLS library, however they are cut into records and segments."""

from __future__ import annotations

import ssl
import subprocess
from functools import cache
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from certs.addresses import format_endpoint
from tests.tunnel_server.frontends.edges import edges
from tests.tunnel_wire.links import contexts, tcp_pair
from tunnel_server.frontends.sni import (
    MAX_HELLO,
    NotAHello,
    Records,
    SniFrontend,
    peek_server_name,
    read_server_name,
)
from tunnel_wire.causes import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@cache
def client_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    out = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


def in_records(hello: bytes, cuts: list[int]) -> bytes:
    """The same handshake message in several records."""
    message, pieces, at = hello[5:], b"", 0
    for cut in [*sorted(cuts), len(message)]:
        if part := message[at:cut]:
            pieces += b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part
            at = cut
    return pieces


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join).filter(lambda n: not n[-1].isdigit())


@given(name=names, cuts=st.lists(st.integers(1, 400), max_size=6))
def test_the_name_is_found_however_the_hello_is_cut(name: str, cuts: list[int]) -> None:
    data = in_records(client_hello(name), cuts)
    assert read_server_name(data) == name
    assert read_server_name(data + b"what follows") == name


@given(cuts=st.lists(st.integers(1, 400), max_size=3), data=st.data())
def test_any_beginning_asks_for_more(cuts: list[int], data: st.DataObject) -> None:
    hello = in_records(client_hello("edge-1.example.org"), cuts)
    assert read_server_name(hello[: data.draw(st.integers(0, len(hello) - 1))]) is None


def test_cut_at_every_byte_and_ended_at_every_byte() -> None:
    hello = client_hello("edge-1.example.org")
    for at in range(len(hello)):
        assert read_server_name(hello[:at]) is None
        assert read_server_name(in_records(hello, [at])) == "edge-1.example.org"
    every = in_records(hello, list(range(len(hello))))
    assert read_server_name(every) == "edge-1.example.org"
    assert read_server_name(every[:-1]) is None


@given(cuts=st.lists(st.integers(1, 400), max_size=6), looks=st.lists(st.integers(0, 600), max_size=9))
def test_each_look_goes_on_where_the_last_one_ended(cuts: list[int], looks: list[int]) -> None:
    hello, records = in_records(client_hello("edge-1.example.org"), cuts), Records()
    for size in sorted(looks):
        if size < len(hello):
            assert read_server_name(hello[:size], records) is None
    assert read_server_name(hello, records) == "edge-1.example.org"


def server_name(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    listed = b"".join(bytes([kind]) + len(name).to_bytes(2) + name for name in names)
    return 0, len(listed).to_bytes(2) + listed


def hello_with(*extensions: tuple[int, bytes]) -> bytes:
    """A ClientHello with these extensions, in one record (RFC 8446, 4.1.2)."""
    listed = b"".join(kind.to_bytes(2) + len(body).to_bytes(2) + body for kind, body in extensions)
    message = b"\3\3" + bytes(32) + b"\x20" + bytes(32) + b"\0\4\x1a\x1a\x13\1" + b"\1\0"
    message += len(listed).to_bytes(2) + listed
    message = b"\1" + len(message).to_bytes(3) + message
    return b"\x16\3\1" + len(message).to_bytes(2) + message


GREASE = [value << 8 | value for value in range(0x0A, 0x100, 0x10)]  # RFC 8701
ECH = 0xFE0D
extensions = st.tuples(st.sampled_from(GREASE) | st.integers(1, 0xFFFF), st.binary(max_size=40))


@given(
    name=names,
    before=st.lists(extensions, max_size=5),
    after=st.lists(extensions, max_size=5),
    cuts=st.lists(st.integers(1, 500), max_size=4),
)
def test_the_name_is_found_among_any_extensions(
    name: str, before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    assert read_server_name(in_records(hello_with(*before, server_name(name.encode()), *after), cuts)) == name
    assert not read_server_name(in_records(hello_with(*before, *after), cuts))


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        ([(0x0A0A, b""), server_name(b"edge-1"), (0xFAFA, b"\0")], "edge-1"),
        # Of an encrypted hello (RFC 9849) the outer name is all there is to see.
        ([(ECH, b"\0" + bytes(200)), server_name(b"public.example")], "public.example"),
        ([(ECH, b"\0" + bytes(200))], ""),
        ([server_name(b"EDGE-1")], "edge-1"),
        ([server_name(b"edge-1.")], "edge-1."),
        ([server_name(b"192.168.2.143")], "192.168.2.143"),
        ([server_name(b"fd00::143")], "fd00::143"),
        ([server_name(b"x", kind=1)], ""),
        ([server_name()], ""),
        ([(0, b"")], None),
        ([server_name(b"")], None),
        ([server_name(b"edge 1")], None),
        ([server_name("bücher".encode())], None),
        ([server_name(b"edge-1\0.example")], None),
        ([(0, b"\0\x10\0\0\6edge-1")], None),
    ],
)
def test_names_and_what_is_none(sent: list[tuple[int, bytes]], read: str | None) -> None:
    if read is None:
        with pytest.raises(NotAHello):
            read_server_name(hello_with(*sent))
    else:
        assert read_server_name(hello_with(*sent)) == read


@given(st.data())
def test_no_damage_raises_anything_else(data: st.DataObject) -> None:
    hello = bytearray(client_hello("edge-1"))
    for _ in range(data.draw(st.integers(1, 8))):
        hello[data.draw(st.integers(0, len(hello) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_server_name(bytes(hello))
    except NotAHello:
        return
    assert found is None or found == "" or found.isascii()


@given(st.binary(max_size=600))
def test_neither_do_other_bytes(data: bytes) -> None:
    try:
        assert read_server_name(data) in {None, ""}
    except NotAHello:
        pass


def test_a_hello_without_a_name() -> None:
    assert not read_server_name(client_hello(None))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "no TLS"),
        (b"\x16\x02\x00\x00\x01", "version 2"),
        (b"\x16\x03\x01\x00\x00", "record of 0 bytes"),
        (b"\x16\x03\x01\xff\xff", "record of 65535 bytes"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "handshake message 2"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "more than"),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", "past its end"),
        (b"\x16\x03\x01\x00\x01\x01\x17", "another record"),
        (b"\x16\x03\x01\x00\x01\x01" * 3000, "more than|does not end"),
    ],
)
def test_what_is_no_hello(data: bytes, why: str) -> None:
    with pytest.raises(NotAHello, match=why):
        read_server_name(data[:MAX_HELLO])


async def test_it_is_found_in_segments_and_stays_in_the_socket() -> None:
    hello = client_hello("edge-1")
    near, far = tcp_pair()
    with near, far:
        found: list[str] = []

        async def peek() -> None:
            found.append(await peek_server_name(near))

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peek)
                for at in range(0, len(hello), 100):
                    far.send(hello[at : at + 100])
                    await trio.testing.wait_all_tasks_blocked(0.002)
        assert found == ["edge-1"]
        assert near.recv(MAX_HELLO) == hello
        far.send(b"x")
        with trio.fail_after(5):  # the low-water mark is back
            await trio.lowlevel.wait_readable(near)


async def test_a_caller_that_leaves_in_the_middle() -> None:
    near, far = tcp_pair()
    with near:
        far.send(client_hello("edge-1")[:50])
        far.close()
        with trio.fail_after(5), pytest.raises(ConnectionResetError):
            await peek_server_name(near)


async def test_a_caller_that_says_nothing_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with edges() as made:
        address = await made.listen(SniFrontend(made.core.calls, made.naming, default_port=10250), 10250)
        async with await trio.open_tcp_stream(*address) as caller:
            with pytest.raises(trio.BrokenResourceError):
                await caller.receive_some()
        (failure,) = made.core.calls.failures
        assert (failure.frontend, failure.cause) == ("sni", Cause.TIMED_OUT)


# --- with a TLS service at the edge ---------------------------------------------------------------


async def greet(stream: trio.SocketStream) -> None:
    """A TLS service with a certificate of its own."""
    tls = trio.SSLStream(stream, contexts()[0], server_side=True, https_compatible=True)
    await tls.send_all(b"hello from the edge\n")
    await tls.aclose()


async def s_client(address: tuple[str, int], *options: str) -> str:
    command = ["openssl", "s_client", "-connect", format_endpoint(*address), "-quiet", *options]
    done = await trio.run_process(
        command, stdin=b"", capture_stdout=True, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace")


@pytest.fixture(params=["127.0.0.1", "::1"])
async def tls_edges(request: pytest.FixtureRequest) -> AsyncIterator[object]:
    async with edges() as made:
        for number in (1, 2):
            await made.add(f"edge-{number}", "192.168.1.10", f"fd00::{number}")
        await made.serve("edge-1", 10250, greet)
        await made.serve("edge-2", 9443, greet)
        made.naming.name_suffix = "edges.example.org"
        frontend = SniFrontend(made.core.calls, made.naming, default_port=10250)
        yield made, await made.listen(frontend, 10250, 9443, name="secure", host=request.param)


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("edge-1", ("edge-1", "192.168.1.10", 10250)),
        ("EDGE-1", ("edge-1", "192.168.1.10", 10250)),
        ("edge-1.edges.example.org", ("edge-1", "192.168.1.10", 10250)),
        ("9443.edge-2", ("edge-2", "192.168.1.10", 9443)),
        ("9443.edge-2.edges.example.org", ("edge-2", "192.168.1.10", 9443)),
        ("edge-1.", ("edge-1", "192.168.1.10", 10250)),
        ("fd00::1", ("edge-1", "fd00::1", 10250)),
    ],
)
async def test_openssl_reaches_the_edge_it_names(
    tls_edges: object, name: str, reached: tuple[str, str, int]
) -> None:
    made, address = tls_edges  # type: ignore[misc]
    out = await s_client(address, "-servername", name)
    assert "hello from the edge" in out
    assert made.dialled == [reached]


@pytest.mark.parametrize(
    ("options", "cause", "why"),
    [
        (("-servername", "edge-9"), Cause.NO_SUCH_NODE, "no node is called edge-9"),
        (("-servername", "22.edge-1"), Cause.NOT_ALLOWED, "port 22 is not mapped"),
        (("-servername", "edge-2"), Cause.REFUSED, "nobody listens"),
        (("-servername", "192.168.1.10"), Cause.ADDRESS_SHARED, "claimed by several nodes"),
        (("-noservername",), Cause.NO_SUCH_NODE, "names no server"),
    ],
)
async def test_the_cause_of_a_reset_is_told(
    tls_edges: object, options: tuple[str, ...], cause: Cause, why: str
) -> None:
    made, address = tls_edges  # type: ignore[misc]
    assert "hello" not in await s_client(address, *options)
    (failure,) = made.core.calls.failures
    assert failure.cause is cause
    assert why in failure.detail


async def test_plain_http_on_the_tls_port_is_named(tls_edges: object) -> None:
    made, address = tls_edges  # type: ignore[misc]
    async with await trio.open_tcp_stream(*address) as caller:
        await caller.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
            await caller.receive_some()
    assert "it is no TLS" in made.core.calls.failures[0].detail
