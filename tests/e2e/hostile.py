"""What attackers have in these tests: real certificates and frames by hand; and what others feel."""

import hashlib
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from hpack import Encoder

from tests.e2e.network import dial
from tests.e2e.services import MIB, pattern_digest
from tests.e2e.system import CLOUD, EDGE_1, System, resident
from tests.tunnel_wire.handmade import Sent, raw
from tunnel_agent.credentials import ALPN, AUTHORITY, CERTIFICATE, KEY
from tunnel_wire import frames
from tunnel_wire.hello import Hello, new_id
from tunnel_wire.tls import strict_context
from tunnelctl.demo.topology import Host

if TYPE_CHECKING:
    from tests.e2e.stopwatch import Stopwatch

PATIENCE = 30.0
TRANSFER = 12
"""MiB."""
GROWN = 10.0
"""MiB of the server's memory that an attack may cost, however short."""
HANDSHAKE = 2.0
"""Seconds that a TLS handshake with that server may take."""


def node_context(system: System, edge: Host) -> ssl.SSLContext:
    """TLS as the edge's agent has it, with the certificate that it has joined for."""
    state = system.agent_state(edge)
    context = strict_context(server_side=False)
    context.set_alpn_protocols([ALPN])
    context.load_cert_chain(state / CERTIFICATE, state / KEY)
    context.load_verify_locations(state / AUTHORITY)
    return context


def public_port(host: Host, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A TLS connection to the server's public port."""
    return context.wrap_socket(dial(host, (CLOUD, 10262), timeout=PATIENCE), server_hostname=CLOUD)


class HostileAgent:
    """A link that the server has accepted, and whose every frame is the test's."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self.encoder = Encoder()
        self._received = bytearray()
        self.watch: Stopwatch | None = None
        """Runs from when it floods."""
        self.crossed = 0.0
        """By that, when the flood crossed its limit, if that takes long enough to matter."""

    @classmethod
    def link(cls, host: Host, context: ssl.SSLContext, node: str, *, session: str = "") -> Self:
        """Connect, and say hello as `node`."""
        agent = cls(public_port(host, context))
        hello = Hello("1", session=session or new_id(), node=node).to_headers()
        settings = raw(frames.SETTINGS, 0, 0) + raw(frames.SETTINGS, 1, 0)
        agent.sock.sendall(settings + agent.headers(1, [(b":status", b"200"), *hello], end=True))
        return agent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def headers(self, stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool = False) -> bytes:
        """A HEADERS frame."""
        flags = frames.FLAG_END_HEADERS | (frames.FLAG_END_STREAM if end else 0)
        return raw(frames.HEADERS, flags, stream_id, self.encoder.encode(fields))

    def asked(self) -> int:
        """The id of the next stream that the server opens for a call. Raises OSError."""
        while True:
            frame = self.frame()
            assert frame is not None, "the link ended"
            if frame.kind == frames.HEADERS and frame.stream_id > 1:
                return frame.stream_id

    def goaway(self) -> int | None:
        """Receive up to the link's end; the code with which the server closed it, if it said one."""
        code = None
        # What it has not read of ours makes its end a reset, behind what it said.
        with suppress(ConnectionResetError, BrokenPipeError):
            while (frame := self.frame()) is not None:
                if frame.kind == frames.GOAWAY:
                    code = frame.code
        return code

    def frame(self) -> Sent | None:
        """The next frame that the server sent; None at the proper end of the link. Raises OSError."""
        buffer = self._received
        while True:
            if buffer.startswith(frames.PREFACE):
                del buffer[: len(frames.PREFACE)]
            if len(buffer) >= frames.HEADER_SIZE:
                length, kind, flags, stream_id = frames.parse_header(buffer)
                end = frames.HEADER_SIZE + length
                if len(buffer) >= end:
                    payload = bytes(buffer[frames.HEADER_SIZE : end])
                    del buffer[:end]
                    return Sent(kind, flags, stream_id, payload)
            piece = self.sock.recv(1 << 16)
            if not piece:
                return None
            buffer += piece


@dataclass
class Bystander:
    """What somebody else's transfer came to, and the server's memory meanwhile."""

    digest: str = ""
    peak: float = 0.0
    """MiB."""


class Besieged:
    """A deployment that is attacked, and what its other users feel."""

    def __init__(self, system: System) -> None:
        self.system = system
        self._calm = 0.0
        """MiB that the server holds at most while nobody attacks."""
        for _ in range(3):
            with self._transfer() as noted:
                pass
            self._calm = max(self._calm, noted.peak)

    @contextmanager
    def nobody_else_feels_it(self) -> Iterator[None]:
        """Around an attack: edge-1's link stays, a transfer from it arrives whole (slow until the attack is
        over), and the server's memory does not grow.
        """
        since = self.system.nodes()["edge-1"]["since"]
        before = max(self._calm, resident(self.system.processes["server"].pid))
        with self._transfer() as noted:
            yield
        assert noted.digest == pattern_digest(TRANSFER), "the transfer beside the attack"
        assert noted.peak - before < GROWN, f"MiB: {noted.peak} after {before}"
        now = self.system.nodes()["edge-1"]
        assert (now["since"], now["connected"]) == (since, True)

    @contextmanager
    def _transfer(self) -> Iterator[Bystander]:
        noted, over = Bystander(), threading.Event()
        server = self.system.processes["server"].pid
        with dial(self.system.topology.cloud, (EDGE_1, 9081), timeout=PATIENCE) as sock:
            sock.sendall(f"GET /pattern?mib={TRANSFER} HTTP/1.1\r\nHost: edge\r\n\r\n".encode())
            thread = threading.Thread(target=_receive, args=(sock, noted, over, server))
            thread.start()
            try:
                yield noted
            finally:
                over.set()
                thread.join()


def _receive(sock: socket.socket, noted: Bystander, over: threading.Event, server: int) -> None:
    with sock.makefile("rb") as answer, suppress(OSError):
        while answer.readline().strip():
            pass
        digest = hashlib.sha256()
        for number in range(TRANSFER * 16):
            digest.update(answer.read(MIB // 16))
            if number % 4 == 0:
                noted.peak = max(noted.peak, resident(server))
            over.wait(0.003)
        noted.digest = digest.hexdigest()
