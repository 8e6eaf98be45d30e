"""A real authority, and the server's end of a link as far as an agent needs one."""

import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import outcome
import pytest
import trio
from outcome import Outcome

from certs.authority import Authority
from certs.requests import key_pem, new_key
from tunnel_agent import lookups
from tunnel_agent.credentials import details
from tunnel_agent.endpoint import Endpoint
from tunnel_wire.flow import Budget
from tunnel_wire.hello import RESUME, Hello, new_id
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session
from tunnel_wire.sockets import from_trio
from tunnel_wire.stream import TunnelStream, open_stream
from tunnel_wire.tls import TlsPump, handshake

NODE_ADDRESS = "192.168.2.143"


class Pki:
    """An authority, and what it issues as files."""

    def __init__(self, directory: Path, domain: str = "tunnel.test") -> None:
        self.directory = directory
        self.authority, _ = Authority.make(domain)

    def state(
        self,
        name="state",
        servers=("127.0.0.1:10262",),
        *,
        node="edge-1",
        addresses=(NODE_ADDRESS,),
        proxy="",
        now=None,
        life=None,
        attested=False,
    ) -> Path:
        """A state directory as joining leaves it."""
        path = self.directory / name
        path.mkdir(mode=0o700)
        key = new_key()
        certificate = self.authority.issue_node(
            key.public_key(),
            node,
            [ipaddress.ip_address(address) for address in addresses],
            now=now,
            life=life or timedelta(days=90),
            attested=attested,
        )
        self._write(path / "node.key", key_pem(key))
        self._write(path / "node.crt", certificate.encode())
        self._write(path / "ca.crt", self.authority.pem.encode())
        known = details(node, addresses, map(Endpoint.parse, servers), proxy)
        self._write(path / "agent.json", known)
        return path

    def server_context(self, *, as_node=False, address="127.0.0.1", now=None, life=None, alpn="tunnel/1"):
        """A TLS context as a server has it; or as another node would, to pose as one."""
        key = new_key()
        public = key.public_key()
        addresses = [ipaddress.ip_address(address)]
        life = life or timedelta(days=90)
        if as_node:
            certificate = self.authority.issue_node(public, "edge-2", addresses, now=now, life=life)
        else:
            certificate = self.authority.issue_server(public, "main", addresses, (), now=now, life=life)
        both = self.directory / "server.pem"
        self._write(both, key_pem(key) + certificate.encode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(both)
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols([alpn])
        context.num_tickets = 0
        return context

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.touch(mode=0o600)
        path.write_bytes(data)


@pytest.fixture
def pki(tmp_path):
    return Pki(tmp_path)


@pytest.fixture
def long_ago():
    return datetime.now(UTC) - timedelta(days=400)


@dataclass
class FakeServer:
    """Accepts agents' links on loopback. What it does with them is each test's business."""

    context: ssl.SSLContext
    instance: str = field(default_factory=new_id)
    grace: int = 0
    """Seconds for which it keeps streams whose link was lost, in one session for all its links."""

    def __post_init__(self) -> None:
        self.session: Session | None = None
        if self.grace:
            self.session = Session(budget=Budget(1 << 30))
            self.session.suspended.grace = self.grace
        self.listener = trio.socket.socket()
        self.endpoint = ""
        self.links: list[ServerLink] = []

    async def listen(self) -> str:
        await self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(16)
        self.endpoint = f"127.0.0.1:{self.listener.getsockname()[1]}"
        return self.endpoint

    async def accept(self) -> "ServerLink":
        """The next agent, after TLS."""
        sock, _ = await self.listener.accept()
        plain = from_trio(sock)
        pump = TlsPump(self.context, server_side=True)
        try:
            await handshake(plain, pump)
        except BaseException:
            plain.close()
            raise
        self.links.append(ServerLink(self, plain, pump))
        return self.links[-1]

    def close(self) -> None:
        self.listener.close()
        for link in self.links:
            link.sock.close()


class ServerLink:
    """The server's end of one link: run it in the background, then open streams."""

    def __init__(self, server: FakeServer, sock: socket.socket, pump: TlsPump) -> None:
        self.sock = sock
        self.session = server.session or Session(budget=Budget(1 << 30))
        resumes = frozenset({RESUME} if server.grace else ())
        hello = Hello(
            "test", instance=server.instance, capabilities=resumes, grace=server.grace, grace_pooled=10
        )
        self.connection = OpenerConnection(hello, now=trio.current_time())
        self.connection.session = self.session
        self.hellos: list[Hello | None] = []
        self.link = Link(sock, pump, self.connection, on_hello=self._on_hello)
        self.certificate = pump.peer_certificate
        self.ended: LinkEnded | None = None

    async def run(self) -> None:
        try:
            await self.link.run()
        except LinkEnded as ended:
            self.ended = ended

    def _on_hello(self, hello: Hello | None) -> None:
        self.hellos.append(hello)
        if self.connection.resumes:
            self.connection.resume(list(self.session.suspended), trio.current_time())

    async def open(self, host: str, port: int) -> TunnelStream:
        return await open_stream(self.connection, self.session, host, port)


@pytest.fixture
async def server(pki):
    fake = FakeServer(pki.server_context())
    await fake.listen()
    yield fake
    fake.close()


@contextmanager
def _black_hole():
    """A loopback port that answers no SYN: a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield listener.getsockname()[1]


@pytest.fixture
def black_hole():
    with _black_hole() as port:
        yield port


@pytest.fixture
def refusing():
    """A loopback port where nobody listens, and nobody else will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


class Dns:
    """What the system's resolver says, without the threads that wait for it: nothing while it is silent."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, list[str]] = {}
        self.silent = False
        self._waiting: list[Callable[[], object]] = []

    def answer(self, host: str, *addresses: str) -> None:
        """Speak again, if it was silent: this name has these addresses from now on."""
        self.answers[host] = list(addresses)
        self.silent = False
        while self._waiting:
            self._waiting.pop(0)()

    def start(self, look: Callable[[], object], deliver: Callable[[Outcome], object], name: str) -> None:
        """As `trio.lowlevel.start_thread_soon`."""
        self.asked.append(name.removeprefix("lookup of "))
        if self.silent:
            self._waiting.append(lambda: deliver(outcome.capture(look)))
        else:
            deliver(outcome.capture(look))

    def look(self, host: bytes) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
        """As the system."""
        if host.decode() not in self.answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [ipaddress.ip_address(each) for each in self.answers[host.decode()]]


@pytest.fixture
def dns(monkeypatch):
    """In place of the system's resolver."""
    made = Dns()
    monkeypatch.setattr(lookups, "getaddrinfo", made.look)
    monkeypatch.setattr(trio.lowlevel, "start_thread_soon", made.start)
    return made
