"""Strangers and callers that flood, stall, and name what is not theirs: refused, and felt by nobody else."""

import re
import selectors
import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests.e2e.egress import ask, over_tls, over_unix_socket
from tests.e2e.hostile import HANDSHAKE, Besieged, HostileAgent, node_context, public_port
from tests.e2e.network import dial, inside, listen
from tests.e2e.system import CLOUD, EDGE_1, EDGE_2, System
from tests.tunnel_wire import key_updates

CLOSED = 1.0
LINGER = 1.0
HALF_OPEN = 2000
HERE = 2222
"""Where a service listens on the server's own loopback, which nobody may reach through it."""
RST = struct.pack("ii", 1, 0)

Dial = Callable[[], socket.socket]


@pytest.fixture
def own(besieged: Besieged) -> System:
    return besieged.system


def _by_host(own: System) -> Dial:
    return lambda: dial(own.topology.cloud, ("127.0.0.1", 10264), timeout=10)


def _by_server_name(own: System) -> Dial:
    return lambda: dial(own.topology.cloud, ("127.0.0.1", 10263), timeout=10)


def _with_certificate(own: System) -> Dial:
    return over_tls(own.topology.host("other"), (CLOUD, 10262), own.directory / "prom")


def _stranger(own: System) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(own.directory / "prom/ca.crt"))
    context.set_alpn_protocols(["http/1.1"])
    return public_port(own.topology.host("other"), context)


def _as_stranger(own: System) -> Dial:
    return lambda: _stranger(own)


ENDLESS = b"x" * (1 << 20)
PUT = b"PUT / HTTP/1.1\r\nHost: edge-1:9081\r\nTransfer-Encoding: chunked\r\n\r\n"
BYTES: dict[str, tuple[Callable[[System], Dial], bytes, int]] = {
    "a header without end": (_by_host, b"GET / HTTP/1.1\r\nX: " + ENDLESS, 431),
    "headers without end": (_by_host, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50_000, 431),
    "a chunk's extension without end": (_by_host, PUT + b"1;" + ENDLESS, 400),
    "a ClientHello without end": (_by_server_name, b"\x16\x03\x01\x40\x00\x01\x00\xff\xff" + ENDLESS, 0),
    "a CONNECT without end": (_with_certificate, b"CONNECT edge-1:9081 HTTP/1.1\r\nX: " + ENDLESS, 431),
    "a join without end": (_as_stranger, b"POST /v1/join HTTP/1.1\r\nX: " + ENDLESS, 431),
    "a body too large": (
        _as_stranger,
        b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n" + ENDLESS,
        413,
    ),
    "HTTP/2": (_as_stranger, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + ENDLESS, 400),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes_without_end(name: str, besieged: Besieged, own: System) -> None:
    way, said, status = BYTES[name]
    with besieged.nobody_else_feels_it(), way(own)() as sock:
        watch = own.stopwatch("server")
        got = b""
        with suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            sock.sendall(said)
        with suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            while piece := sock.recv(1 << 16):
                got += piece
        took = watch.seconds()
    assert got.startswith(b"HTTP/1.1 %d " % status if status else b""), got[:200]
    # Time is left for an answer to be read.
    assert took < CLOSED + (LINGER if status else 0)


@pytest.mark.skipif(not key_updates.available, reason="needs an ordinary build of CPython")
def test_a_stranger_that_asks_for_new_keys_all_the_time(besieged: Besieged, own: System) -> None:
    with besieged.nobody_else_feels_it(), _stranger(own) as sock:
        sock.sendall(b"GET /")
        watch = own.stopwatch("server")
        with suppress(OSError):
            for _ in range(20_000):
                key_updates.ask_for_new_keys(sock)
        with suppress(ConnectionResetError, BrokenPipeError):
            assert sock.recv(1) == b""
        assert watch.seconds() < CLOSED


def test_a_caller_that_resets_all_the_time_costs_nobody_the_link(besieged: Besieged, own: System) -> None:
    cloud = own.topology.cloud

    def connect_and_reset() -> None:
        for _ in range(150):
            with suppress(OSError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                sock.settimeout(5)
                sock.connect((EDGE_1, 9081))

    with besieged.nobody_else_feels_it(), ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(inside, cloud, connect_and_reset) for _ in range(4)]:
            future.result()


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=CLOUD).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("count", "said"),
    [(HALF_OPEN, b""), (400, _client_hello()[:100]), (400, _client_hello())],
    ids=["silent", "begun", "answered"],
)
def test_thousands_of_half_open_tls_connections(
    count: int, said: bytes, besieged: Besieged, own: System
) -> None:
    def connect() -> list[socket.socket]:
        made = []
        for _ in range(count):
            sock = socket.socket()
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((CLOUD, 10262))
            made.append(sock)
        return made

    with ExitStack() as stack:
        stack.enter_context(besieged.nobody_else_feels_it())
        began = time.monotonic()
        half_open = [stack.enter_context(sock) for sock in inside(own.topology.host("other"), connect)]
        waiting = stack.enter_context(selectors.EpollSelector())
        for sock in half_open:
            waiting.register(sock, selectors.EVENT_WRITE)
        # Somebody who means it comes in beside them.
        with _stranger(own) as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(9) == b"HTTP/1.1 "
        for key, _ in waiting.select(0):
            with suppress(OSError):
                key.fileobj.send(said)  # type: ignore[union-attr]
            waiting.modify(key.fileobj, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select(0.5):
                with suppress(OSError):
                    if key.fileobj.recv(1 << 14):  # type: ignore[union-attr]
                        continue
                waiting.unregister(key.fileobj)
            # Of those that connect in vain the kernel may try some again for a while.
            assert time.monotonic() - began < 60, f"{len(waiting.get_map())} are still open"


def test_a_handshake_byte_by_byte(own: System) -> None:
    hello = _client_hello()
    with dial(own.topology.host("other"), (CLOUD, 10262)) as sock:
        sock.settimeout(0.05)
        began, watch = time.monotonic(), own.stopwatch("server")
        with suppress(ConnectionResetError, BrokenPipeError):
            for number in range(len(hello)):
                sock.send(hello[number : number + 1])
                with suppress(TimeoutError):
                    assert sock.recv(1) == b""
                    break
        assert time.monotonic() - began > HANDSHAKE - 0.2
        assert watch.seconds() < HANDSHAKE + CLOSED


NAMES = ["localhost.", "localhost.localdomain", "ip6-localhost", "edge-1.localhost", "127.0.0.1."]
ADDRESSES = [
    "localhost", "LOCALHOST", "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "017700000001", "0",
    "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]", "[64:ff9b::127.0.0.1]", "[2002:7f00:1::]", "169.254.169.254", "169.254.1.1",
    "2852039166", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[fe80::1]", "[fd00:ec2::254]",
    "100.100.100.200", CLOUD, f"[::ffff:{CLOUD}]", "192.168.2.9", "[::ffff:192.168.2.9]",
]  # fmt: skip
REFUSED = re.compile(rb"HTTP/1.1 (400 |403 |502 unresolvable)")
OTHERS = [
    (f"{EDGE_1}:22", "another port"),
    (f"[::ffff:{EDGE_1}]:22", "another port, of an address in IPv6 form"),
    ("edge-1:22", "another port, by name"),
    ("EDGE-1.:22", "the same in capitals"),
    ("edge-2:9081", "another node"),
    (f"{EDGE_2}:9081", "another node's address"),
    (f"[::ffff:{EDGE_2}]:9081", "another node's address in IPv6 form"),
    (f"[64:ff9b::{EDGE_2}]:9081", "the same as a translator has it"),
]


def test_what_is_nobodys_is_dialled_by_nobody(own: System) -> None:
    """By Host, by a user of the socket, by a caller for whom the server dials itself."""
    cloud = own.topology.cloud
    socket_user, caller = over_unix_socket(own.directory / "connect.sock"), _with_certificate(own)
    with (
        listen(cloud, ("0.0.0.0", HERE)) as service,
        listen(own.topology.edge(1), ("127.0.0.1", HERE)) as there,
    ):
        for host in (*NAMES, *ADDRESSES):
            # For the caller the server would resolve a name, which may take it long.
            for connect in (socket_user, caller) if host in ADDRESSES else (socket_user,):
                sock, answer = ask(connect, f"{host}:{HERE}")
                sock.close()
                assert REFUSED.match(answer), (host, answer)
            with dial(cloud, ("127.0.0.1", 10264)) as sock:
                sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}:{HERE}\r\nConnection: close\r\n\r\n".encode())
                assert REFUSED.match(sock.recv(100)), host
        for listener in (service, there):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


@pytest.mark.parametrize(("target", "what"), OTHERS)
def test_what_a_caller_has_no_right_to(own: System, target: str, what: str) -> None:
    sock, answer = ask(_with_certificate(own), target)
    sock.close()
    assert answer.startswith((b"HTTP/1.1 403 not-allowed", b"HTTP/1.1 400 ")), (what, answer)


def test_a_node_is_no_caller(own: System) -> None:
    """Whoever has an edge's certificate can't call with it: nor the edge itself."""
    context = node_context(own, own.topology.edge(2))
    context.set_alpn_protocols(["http/1.1"])
    with public_port(own.topology.edge(2), context) as sock:
        sock.sendall(b"CONNECT edge-1:9081 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 403 ")
    with HostileAgent.link(own.topology.edge(2), node_context(own, own.topology.edge(2)), "edge-1") as agent:
        assert agent.goaway() == 0
