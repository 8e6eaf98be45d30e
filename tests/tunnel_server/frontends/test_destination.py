"""Where a request wants to go: two readers of the same bytes must not differ."""

from __future__ import annotations

import re

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_server.frontends.destination import read_destination


def request(head: bytes) -> h11.Request:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head + b"\r\n\r\n")
    event = parser.next_event()
    assert isinstance(event, h11.Request)
    return event


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1\r\nHost: edge-1", ("edge-1", 80, b"/")),
        (b"GET /a HTTP/1.1\r\nHost: Edge-1:9081", ("edge-1", 9081, b"/a")),
        (b"GET / HTTP/1.1\r\nHost: edge-1.:9081", ("edge-1.", 9081, b"/")),
        (b"GET / HTTP/1.1\r\nHost: [fd00::1]:9081", ("fd00::1", 9081, b"/")),
        (b"GET / HTTP/1.1\r\nHost: [FD00:0::1]", ("fd00::1", 80, b"/")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Tunnel-Proxy-Dest: [fd00::1]:1", ("fd00::1", 1, b"/")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Tunnel-Proxy-Dest: edge-1.:1", ("edge-1.", 1, b"/")),
        (b"GET http://[fd00::1]:81/ HTTP/1.1\r\nHost: [fd00::1]:81", ("fd00::1", 81, b"/")),
        (b"GET / HTTP/1.1\r\nHost: x\r\nx-tunnel-PROXY-dest: 192.168.2.143:1", ("192.168.2.143", 1, b"/")),
        (b"GET http://edge-1:81/a?b HTTP/1.1\r\nHost: edge-1:81", ("edge-1", 81, b"/a?b")),
        (b"GET http://edge-1 HTTP/1.1\r\nHost: edge-1", ("edge-1", 80, b"/")),
        (b"OPTIONS * HTTP/1.1\r\nHost: edge-1", ("edge-1", 80, b"*")),
        (b"GET http://edge-1/ HTTP/1.0", ("edge-1", 80, b"/")),
    ],
)
def test_destinations(head: bytes, expected: tuple[str, int, bytes]) -> None:
    host, port, forwarded = read_destination(request(head))
    assert (host, port, forwarded.target) == expected
    assert not any(name == b"x-tunnel-proxy-dest" for name, _ in forwarded.headers)
    assert sum(name == b"host" for name, _ in forwarded.headers) == 1


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost:",
        b"GET / HTTP/1.0",
        b"GET / HTTP/1.1\r\nHost: a b",
        b"GET / HTTP/1.1\r\nHost: user@edge-1",
        b"GET / HTTP/1.1\r\nHost: edge-1:",
        b"GET / HTTP/1.1\r\nHost: edge-1:80:80",
        b"GET / HTTP/1.1\r\nHost: ::ffff:127.0.0.1",
        b"GET / HTTP/1.1\r\nHost: \xff",
        b"GET / HTTP/1.1\r\nHost: edge-1..",
        b"GET / HTTP/1.1\r\nHost: fd00::1:9081:x",
        b"GET / HTTP/1.1\r\nHost: [fd00::1]9081",
        b"GET / HTTP/1.1\r\nHost: [fe80::1%25eth0]:80",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Tunnel-Proxy-Dest: a:1\r\nX-Tunnel-Proxy-Dest: b:1",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Tunnel-Proxy-Dest:",
        b"GET https://edge-1/ HTTP/1.1\r\nHost: edge-1",
        b"GET edge-1 HTTP/1.1\r\nHost: edge-1",
        b"GET http://edge-1?x HTTP/1.1\r\nHost: edge-1",
        b"GET http://edge-2/ HTTP/1.1\r\nHost: edge-1",
        b"CONNECT edge-1:80 HTTP/1.1\r\nHost: edge-1",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1",
        b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
    ],
)
def test_what_is_refused(head: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        read_destination(request(head))


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"PRI * HTTP/2.0", "HTTP/2 is not spoken here: use HTTP/1.1"),
        (b"GET / HTTP/1.1\r\nHost: a:1, b:2", "'a:1, b:2' is not an endpoint: write HOST:PORT"),
        (b"GET / HTTP/1.1\r\nHost: a:b:c:1", "'a:b:c:1' is not an endpoint: write HOST:PORT"),
        (
            b"GET / HTTP/1.1\r\nHost: http://edge-1:1/",
            "'http://edge-1:1/' is not an endpoint: write HOST:PORT",
        ),
        (b"GET / HTTP/1.1\r\nHost: fe80::1%eth0", "has a zone"),
    ],
)
def test_what_is_wrong_is_said(head: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        read_destination(request(head))


@given(st.binary(max_size=60).filter(lambda data: not set(data) & set(b"\r\n\0")))
def test_no_host_raises_anything_else(host: bytes) -> None:
    try:
        where, port, forwarded = read_destination(request(b"GET / HTTP/1.1\r\nHost: " + host))
    except (h11.RemoteProtocolError, ValueError):
        return
    assert where
    assert where == where.lower()
    assert 0 < port < 65536
    assert forwarded.target == b"/"


labels = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=3).map(".".join).filter(lambda name: not name[-1].isdigit())
hosts = st.one_of(
    names,
    names.map(lambda name: name + "."),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None).map(lambda each: f"[{each}]"),
)
authorities = st.builds(
    lambda host, port: (host.strip("[]").lower(), port or 80, host + (f":{port}" if port else "")),
    hosts,
    st.none() | st.integers(1, 65535),
)


@given(authorities, st.none() | authorities, st.booleans())
def test_whatever_names_it_the_edge_is_told_the_callers_own_host(
    host: tuple[str, int, str], dest: tuple[str, int, str] | None, absolute: bool
) -> None:
    target = f"http://{host[2]}/a?b" if absolute else "/a?b"
    lines = [f"GET {target} HTTP/1.1", f"Host: {host[2]}"]
    if dest is not None:
        lines.append(f"X-Tunnel-Proxy-Dest: {dest[2]}")
    where, port, forwarded = read_destination(request("\r\n".join(lines).encode()))
    assert (where, port) == (dest or host)[:2]
    # As another reader has it, from the bytes that travel.
    sent = h11.Connection(h11.CLIENT).send(forwarded)
    assert sent is not None
    again = read_destination(request(sent.removesuffix(b"\r\n\r\n")))
    assert again[:2] == host[:2]
    assert again[2].target == b"/a?b"
