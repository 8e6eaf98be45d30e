"""Two real ends of a link over a socket pair and TLS, for tests."""

from __future__ import annotations

import datetime
import gc
import socket
import tempfile
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tunnel_wire import link_tls
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.flow import Budget
from tunnel_wire.hello import OPTIMISTIC, RESUME, Hello, new_id
from tunnel_wire.limits import DEFAULT_LIMITS, WireLimits
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session, Stream
from tunnel_wire.stream import IncomingStream, TunnelStream, open_stream
from tunnel_wire.tls import TlsPump, handshake, strict_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from tunnel_wire.secret_log import LoggedContext

MIB = 1 << 20


def alive(*kinds: type) -> Counter[type]:
    """How many of them there are in memory, of each kind. (Compiled classes know no weak references.)"""
    return Counter(type(each) for each in gc.get_objects() if type(each) in kinds)


def mute(link: Link) -> None:
    """Nothing of what it has to say goes out any more, and nothing says so."""
    link.connection.take = lambda size: []


def unmute(link: Link) -> None:
    """What it had to say meanwhile is late."""
    link.connection.take = link.connection._sender.take
    link.pump()


Tls = Literal["ours", "ours later", "OpenSSL"]
"""Who encrypts a link once its handshake is over: this project's part of TLS from the start, as at a server,
or once there is bulk, as at an agent; or OpenSSL, as where nobody may have the secrets.
"""


@cache
def _certified() -> bytes:
    """A key and its self-signed certificate, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    own = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return own + certificate.public_bytes(serialization.Encoding.PEM)


def new_contexts(*, log_secrets: bool = True) -> tuple[LoggedContext, LoggedContext]:
    """A server's and a client's TLS context, with one self-signed certificate for both."""
    server = strict_context(server_side=True)
    client = strict_context(server_side=False)
    with tempfile.NamedTemporaryFile() as file:
        file.write(_certified())
        file.flush()
        for context in (server, client):
            context.load_cert_chain(file.name)
            context.load_verify_locations(file.name)
            context.set_alpn_protocols(["tunnel/1"])
            if log_secrets:
                context.log_secrets = True
    server.num_tickets = 0
    return server, client


contexts = cache(new_contexts)
"""The same as before."""


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


@dataclass
class Ends:
    """Both ends of a link, running."""

    server: Link
    agent: Link
    opener: OpenerConnection
    answerer: AnswererConnection
    opening: Session
    answering: Session
    nursery: trio.Nursery
    on_request: Callable[[IncomingStream], None] | None = None
    waiting: list[IncomingStream] = field(default_factory=list)
    asked: trio.Event = field(default_factory=trio.Event)
    ended: dict[str, LinkEnded] = field(default_factory=dict)

    def requested(self, stream: Stream) -> None:
        incoming = IncomingStream(self.answerer, stream)
        if self.on_request is not None:
            self.on_request(incoming)
        else:
            self.waiting.append(incoming)
            self.asked.set()

    async def stream(self) -> tuple[TunnelStream, TunnelStream]:
        """A new stream, its opener's and its answerer's end."""
        accepted: list[TunnelStream] = []
        self.on_request = lambda incoming: accepted.append(incoming.accept())
        opened = await open_stream(self.opener, self.opening, "target", 80)
        self.on_request = None
        return opened, accepted[0]

    async def clogged_stream(self) -> tuple[TunnelStream, TunnelStream]:
        """A new stream whose windows are full, both ways."""
        pair = await self.stream()
        for one in pair:
            while room := one.room():
                one.write(bytes(room))
                one.flush()
        return pair


@asynccontextmanager
async def linked(
    limits: WireLimits = DEFAULT_LIMITS,
    sockets: tuple[socket.socket, socket.socket] | None = None,
    budget: int = 1 << 30,
    *,
    resumes: bool = False,
    optimistic: bool = True,
    tls: Tls = "ours",
) -> AsyncIterator[Ends]:
    """Handshake, hello, and both links running in the background."""
    server_context, client_context = contexts(log_secrets=tls != "OpenSSL")
    near, far = sockets or tcp_pair()
    server_pump = TlsPump(server_context, server_side=True)
    client_pump = TlsPump(client_context, server_hostname="test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, near, server_pump)
        nursery.start_soon(handshake, far, client_pump)
    now = trio.current_time()
    opening = Session(budget=Budget(budget), limits=limits)
    answering = Session(
        budget=Budget(budget), limits=limits, identifier=opening.identifier, first_key=1 << 63
    )
    capabilities = frozenset([RESUME] * resumes + [OPTIMISTIC] * optimistic)
    opening.suspended.grace = 90 * resumes
    said = Hello("1", instance=new_id(), capabilities=capabilities, grace=90 * resumes)
    opener = OpenerConnection(said, now=now, limits=limits)
    opener.session = opening
    hello = Hello("1", session=answering.identifier, node="edge-1", capabilities=capabilities)
    answerer = AnswererConnection(answering, hello, now=now)
    async with trio.open_nursery() as nursery:
        server = Link(near, server_pump, opener)
        agent = Link(far, client_pump, answerer, on_request=lambda stream: ends.requested(stream))  # noqa: PLW0108 - not yet bound
        ends = Ends(server, agent, opener, answerer, opening, answering, nursery)
        with _records(loaded=tls != "ours later"):
            nursery.start_soon(_run, server, "server", ends.ended)
            nursery.start_soon(_run, agent, "agent", ends.ended)
            with trio.fail_after(20):
                await server.hello_received.wait()
        assert [link._tls.taken_over for link in (server, agent)] == [tls == "ours"] * 2
        yield ends
        nursery.cancel_scope.cancel()


@contextmanager
def _records(*, loaded: bool) -> Iterator[None]:
    """Links that begin meanwhile find our part of TLS loaded, or not yet."""
    before = link_tls._loaded
    link_tls.load()
    link_tls._loaded = loaded
    try:
        yield
    finally:
        link_tls._loaded = before


async def _run(link: Link, name: str, ended: dict[str, LinkEnded]) -> None:
    try:
        await link.run()
    except LinkEnded as exc:
        ended[name] = exc
