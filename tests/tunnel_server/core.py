"""The server's core on a loopback port, and agents with certificates of a real authority, for tests."""

from __future__ import annotations

import socket
import ssl
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from certs.authority import NODE_LIFE, Authority
from certs.files import StateDirectory
from certs.requests import key_pem, new_key
from certs.revocations import Kind, RevocationStore
from tunnel_daemon.http1 import Request, Response
from tunnel_server.acceptance import Acceptance
from tunnel_server.attempts import Attempts
from tunnel_server.calls import Calls
from tunnel_server.links import Links
from tunnel_server.listener import TunnelListener, tls_context
from tunnel_server.metrics import Metrics
from tunnel_server.registry import Registry
from tunnel_server.revocation import Revocations
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause
from tunnel_wire.flow import Budget, SegmentPool
from tunnel_wire.hello import RESUME, Hello, new_id
from tunnel_wire.limits import WireLimits
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.session import Session, Stream
from tunnel_wire.sockets import from_trio
from tunnel_wire.splice import splice
from tunnel_wire.stream import IncomingStream
from tunnel_wire.tls import TlsPump, handshake, receive_some

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DOMAIN = "edge.test"
ADDRESS = "192.168.2.143"


@dataclass
class Agent:
    """One agent's link, running until it ends."""

    link: Link
    session: Session
    drained: list[tuple[str, str]] = field(default_factory=list)
    ended: LinkEnded | None = None
    over: trio.Event = field(default_factory=trio.Event)

    async def wait_over(self) -> LinkEnded:
        with trio.fail_after(20):
            await self.over.wait()
        assert self.ended is not None
        return self.ended


@dataclass
class Core:
    """The parts of a server, as its process wires them."""

    authority: Authority
    directory: Path
    registry: Registry
    links: Links
    listener: TunnelListener
    calls: Calls
    acceptance: Acceptance
    attempts: Attempts
    state: StateDirectory
    metrics: Metrics
    nursery: trio.Nursery
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[IncomingStream], None] | None = None
    """What agents do with a stream; by default they dial the target and splice."""

    def credentials(
        self, pem: str | None, key: bytes | None, *, authority: Authority | None = None
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=(authority or self.authority).pem)
        context.set_alpn_protocols(["tunnel/1"])
        if pem is not None and key is not None:
            path = self.directory / "client.pem"
            path.write_bytes(key + pem.encode())
            context.load_cert_chain(path)
        return context

    def node(
        self,
        name: str = "edge-1",
        addresses: tuple[str, ...] = (ADDRESS,),
        *,
        life: timedelta = NODE_LIFE,
        authority: Authority | None = None,
    ) -> ssl.SSLContext:
        key = new_key()
        issuer = authority or self.authority
        pem = issuer.issue_node(key.public_key(), name, [ip_address(text) for text in addresses], life=life)
        return self.credentials(pem, key_pem(key))

    async def connect(self, context: ssl.SSLContext) -> tuple[socket.socket, TlsPump]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        sock = from_trio(stream.socket)
        pump = TlsPump(context, server_hostname="localhost")
        try:
            await handshake(sock, pump)
        except BaseException:
            sock.close()
            raise
        return sock, pump

    async def agent(
        self,
        context: ssl.SSLContext | None = None,
        *,
        node: str = "edge-1",
        session: Session | None = None,
        index: int = 0,
        resumes: bool = False,
        before_hello: Callable[[], object] | None = None,
    ) -> Agent:
        """Link up, and wait until the server has said hello or has ended the link."""
        sock, pump = await self.connect(context or self.node())
        if before_hello is not None:
            with trio.fail_after(20):
                while not self.links._running:
                    await trio.sleep(0.01)
            before_hello()
        session = session or Session(budget=Budget(1 << 30), first_key=1 << 63)
        hello = Hello(
            "1",
            session=session.identifier,
            node=node,
            link=index,
            capabilities=frozenset({RESUME} if resumes else ()),
        )
        connection = AnswererConnection(session, hello, now=trio.current_time())

        def requested(stream: Stream) -> None:
            incoming = IncomingStream(connection, stream)
            if self.on_request is not None:
                self.on_request(incoming)
            else:
                self.nursery.start_soon(_serve, incoming)

        agent = Agent(
            Link(
                sock,
                pump,
                connection,
                on_drain=lambda reason, detail: agent.drained.append((reason, detail)),
                on_request=requested,
            ),
            session,
        )

        async def run() -> None:
            try:
                await agent.link.run()
            except LinkEnded as exc:
                agent.ended = exc
            agent.over.set()

        self.nursery.start_soon(run)
        with trio.move_on_after(20):
            async with trio.open_nursery() as nursery:
                for event in (agent.over, agent.link.hello_received):

                    async def wait(event: trio.Event = event) -> None:
                        await event.wait()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(wait)
        return agent

    def revoke(self, kind: Kind, value: str, *, noticed: bool = True) -> None:
        """By a clock that is ahead: what is issued from now on is meant too."""
        later = datetime.now(UTC) + timedelta(hours=1)
        with self.state.transaction() as transaction:
            RevocationStore(self.state, lambda: later).add(transaction, kind, value)
        if noticed:
            self.look()

    def look(self) -> None:
        """As a server does twice a second where something was revoked."""
        self.acceptance.revocations.reload()
        self.acceptance.look(changed=True)

    async def wait_linked(self, name: str, session: Session, links: int = 1) -> None:
        """Wait until this session speaks for the node."""
        with trio.fail_after(20):
            while True:
                node = self.registry.nodes.get(name)
                agent = node.agent if node else None
                if agent and agent.session.identifier == session.identifier and len(agent.links) == links:
                    return
                await trio.sleep(0.01)


async def _serve(incoming: IncomingStream) -> None:
    try:
        target = await trio.open_tcp_stream(incoming.host, incoming.port)
    except OSError:
        incoming.refuse(Cause.REFUSED, "nobody listens")
        return
    await splice(incoming.accept(), from_trio(target.socket))


async def _look(acceptance: Acceptance) -> None:
    while True:
        await trio.sleep(0.1)
        acceptance.look()


@asynccontextmanager
async def running(
    *,
    handshakes: int = 256,
    handshake_timeout: float = 10.0,
    open_timeout: float = 10.0,
    away_wait: float = 0.0,
    calls: int = 1000,
    links_per_node: int = 2,
    limits: WireLimits | None = None,
) -> AsyncIterator[Core]:
    """A server's core that accepts on a loopback port."""
    authority, _ = Authority.make(DOMAIN)
    limits = limits or WireLimits()
    metrics = Metrics("test")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        key = new_key()
        (directory / "key").write_bytes(key_pem(key))
        (directory / "crt").write_text(authority.issue_server(key.public_key(), "s", [], ["localhost"]))
        registry = Registry(
            edge_networks=(ip_network("192.168.0.0/16"),),
            budget=Budget(1 << 30),
            pool=SegmentPool(),
            limits=limits,
            links_per_node=links_per_node,
            on_addresses=lambda: None,
        )
        state = StateDirectory.create(directory / "state")
        acceptance = Acceptance(Revocations(state), authority)
        attempts = Attempts()
        links = Links(
            registry,
            domain=DOMAIN,
            instance=new_id(),
            version="test",
            limits=limits,
            acceptance=acceptance,
            attempts=attempts,
        )

        async def api(request: Request) -> Response:
            core.requests.append(request)
            return Response.text("the API\n")

        listener = TunnelListener(
            tls_context((directory / "crt").read_bytes(), (directory / "key").read_bytes(), authority.pem),
            links,
            api,
            metrics,
            handshakes=handshakes,
            handshake_timeout=handshake_timeout,
            attempts=attempts,
        )
        accepting = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with trio.open_nursery() as nursery:
            core = Core(
                authority,
                directory,
                registry,
                links,
                listener,
                Calls(metrics, registry, open_timeout=open_timeout, away_wait=away_wait, limit=calls),
                acceptance,
                attempts,
                state,
                metrics,
                nursery,
                accepting[0].socket.getsockname()[1],
            )
            nursery.start_soon(listener.serve, accepting)
            nursery.start_soon(_look, acceptance)
            yield core
            nursery.cancel_scope.cancel()


async def meets_reset(address: tuple[str, int]) -> None:
    """Connect, and see a reset. Blocking: an event loop's connect may be told of it already."""
    with socket.create_connection(address) as sock:
        sock.setblocking(False)
        with trio.fail_after(5), pytest.raises(ConnectionResetError):
            await receive_some(sock, 1)
