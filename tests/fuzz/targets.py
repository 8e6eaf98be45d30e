"""What is fuzzed: each target takes any bytes, and raises only where there is a defect.

What a target may refuse, and how, is part of its contract; so are the checks that it makes itself.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h11

from certs.addresses import format_endpoint, parse_endpoint
from certs.tokens import TokenRefusedError, check_token_form
from tests.tunnel_wire.links import contexts
from tests.tunnel_wire.memory import MIB
from tunnel_agent.config import AgentConfig
from tunnel_daemon.settings import SettingsError, read_settings
from tunnel_server.config import ServerConfig
from tunnel_server.frontends.connect import NotConnect, read_target
from tunnel_server.frontends.destination import read_destination
from tunnel_server.frontends.exchange import MAX_HEAD
from tunnel_server.frontends.sni import NotAHello, read_server_name
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.authority import read_authority, write_authority
from tunnel_wire.connection import Connection, ConnectionFailed
from tunnel_wire.events import DataReceived, EndReceived, HelloReceived, StreamRequested
from tunnel_wire.flow import Budget
from tunnel_wire.frames import PREFACE
from tunnel_wire.hello import RESUME, BadHello, Hello
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session
from tunnel_wire.stream_state import EndCause, State
from tunnel_wire.tls import TlsEnded, TlsPump

Target = Callable[[bytes], None]
ID = "0123456789abcdef" * 2
NOW = 1000.0
SERVER = Hello("1", instance=ID, capabilities=frozenset({RESUME}), grace=90)
AGENT = Hello("1", session=ID, node="edge-1", capabilities=frozenset({RESUME}))
"""Ends that resume streams."""


# --- links ----------------------------------------------------------------------------------------


def agent_link(data: bytes) -> None:
    """What a server may send to an agent, behind the preface. The first byte: the pieces' size."""
    session = Session(budget=Budget(64 * MIB), first_key=1 << 63, identifier=ID)
    connection = AnswererConnection(session, Hello("1", session=ID, node="edge-1"), now=NOW)
    _exchange(connection, session, PREFACE, data)


def server_link(data: bytes) -> None:
    """What an agent may send to a server that has two streams open, or wants to."""
    session = Session(budget=Budget(64 * MIB), identifier=ID)
    connection = OpenerConnection(Hello("1", instance=ID), now=NOW)
    connection.session = session
    for port in (1, 2):
        stream = connection.open_stream(session, "target", port)
        stream.write(bytes(1000))
    _exchange(connection, session, b"", data)


def agent_resumption(data: bytes) -> None:
    """What a server may send on a new link to an agent whose streams wait for one."""
    session = interrupted(first_key=1 << 63)
    session.instance = SERVER.instance
    _exchange(AnswererConnection(session, AGENT, now=NOW), session, PREFACE, data)


def server_resumption(data: bytes) -> None:
    """What an agent may send on a new link to a server that wants to go on with its streams."""
    session = interrupted()
    connection = OpenerConnection(SERVER, now=NOW)
    connection.session = session
    _exchange(connection, session, b"", data)


def interrupted(**numbering: int) -> Session:
    """A session with three streams that wait: each has sent what may not have come, and received some."""
    session = Session(budget=Budget(64 * MIB), identifier=ID, **numbering)
    session.suspended.grace = SERVER.grace
    for key in (1, 2, 3):
        stream = session.new_stream("target", 80, key=key)
        stream.resumable, stream.state = True, State.OPEN
        stream.outgoing.limit = 2000
        stream.write(bytes(1500))
        stream.outgoing.take(1000)
        stream.incoming.received = 600
        stream.suspend(NOW)
        stream.consume(500, NOW)
    return session


def _exchange(connection: Connection, session: Session, before: bytes, data: bytes) -> None:
    """Feed everything, read everything, answer everything; then see what the peer has made us hold."""
    limits = DEFAULT_LIMITS
    size, now = max(1, data[0]) if data else 1, NOW
    pieces = [before] if before else []
    pieces += [data[at : at + size] for at in range(1, len(data), size)]
    with contextlib.suppress(ConnectionFailed):
        for piece in pieces:
            now += 0.001
            for event in connection.receive(memoryview(piece), now):
                match event:
                    case HelloReceived() if isinstance(connection, OpenerConnection):
                        connection.resume(list(session.suspended), now)
                    case DataReceived():
                        event.stream.consume(len(event.data), now)
                    case EndReceived():
                        event.stream.write_end()
                        event.stream.finish_if_done()
                    case StreamRequested() if isinstance(connection, AnswererConnection):
                        connection.accept(event.stream)
                        event.stream.write(b"welcome"[: event.stream.room()])
            sum(map(len, connection.take(MIB)))
        while (due := connection.deadline()) < NOW + 60:
            now = max(now, due)
            connection.tick(now)
            connection.take(MIB)
    connection.take(MIB)
    assert len(session.streams) <= limits.max_streams
    session.lose_link(connection, now, for_good=True)
    session.end_suspended(EndCause.EXPIRED)
    assert not session.streams
    assert session.budget.used == 0


def tls(data: bytes) -> None:
    """What anybody may send to the tunnel's port before it has said who it is."""
    pump = TlsPump(contexts()[0], server_side=True)
    size = max(1, data[0]) if data else 1
    with contextlib.suppress(ssl.SSLError, TlsEnded):
        for at in range(1, len(data), size):
            pump.feed(data[at : at + size])
            assert not pump.handshake_step()
            pump.ciphertext()
    with contextlib.suppress(ssl.SSLError, TlsEnded):
        pump.feed_eof()
        assert not pump.handshake_step()


# --- callers --------------------------------------------------------------------------------------


def sni(data: bytes) -> None:
    """A caller's first bytes on the port for names in TLS."""
    with contextlib.suppress(NotAHello):
        name = read_server_name(data)
        if name is not None:
            assert name == name.lower()
            assert read_server_name(data + b"more") == name


def host(data: bytes) -> None:
    """A caller's HTTP request on the port for names in Host."""
    head = _head(data)
    if head is None:
        return
    with contextlib.suppress(ValueError, h11.LocalProtocolError):
        where, port, request = read_destination(head)
        assert where
        assert where == where.lower()
        assert 0 < port < 65536
        forwarded = h11.Connection(h11.CLIENT).send(request)
        assert forwarded is not None
        again = _head(forwarded)
        assert again is not None
        assert again.method == head.method


def connect(data: bytes) -> None:
    """A caller's CONNECT."""
    head = _head(data)
    if head is None:
        return
    with contextlib.suppress(ValueError, NotConnect):
        where, port = read_target(head)
        assert parse_endpoint(format_endpoint(where, port), 0) == (where, port)


def _head(data: bytes) -> h11.Request | None:
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    parser.receive_data(data)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return None
    return event if isinstance(event, h11.Request) else None


# --- texts ----------------------------------------------------------------------------------------


def authority(data: bytes) -> None:
    """A stream's `:authority`."""
    if (found := read_authority(data)) is not None:
        again = read_authority(write_authority(*found))
        assert again == found


def hello(data: bytes) -> None:
    """An end's introduction: a header field a line, name and value parted by a colon."""
    lines = [line.partition(b":") for line in data.split(b"\n")]
    with contextlib.suppress(BadHello):
        read = Hello.from_headers([(name, value) for name, _, value in lines])
        assert 0 <= read.link < 256
        assert read.link == 0 or b"link" in data


def token(data: bytes) -> None:
    """What somebody pasted as a join token."""
    with contextlib.suppress(TokenRefusedError):
        assert check_token_form(data.decode("utf-8", "replace"))


def server_config(data: bytes) -> None:
    """An administrator's server.toml."""
    _settings(ServerConfig, data)


def agent_config(data: bytes) -> None:
    """An administrator's agent.toml."""
    _settings(AgentConfig, data)


_scratch = TemporaryDirectory(prefix="fuzz-")


def _settings(cls: type[ServerConfig | AgentConfig], data: bytes) -> None:
    path = Path(_scratch.name, "settings.toml")
    path.write_bytes(data)
    told = ""
    try:
        read_settings(cls, path)
    except SettingsError as exc:
        told = str(exc)
    assert all(line.isprintable() for line in told.split("\n")), told


TARGETS: dict[str, Target] = {
    "agent-link": agent_link,
    "server-link": server_link,
    "agent-resumption": agent_resumption,
    "server-resumption": server_resumption,
    "tls": tls,
    "sni": sni,
    "host": host,
    "connect": connect,
    "authority": authority,
    "hello": hello,
    "token": token,
    "server-config": server_config,
    "agent-config": agent_config,
}
