"""One call: connects to the server and asks it, by HTTP CONNECT (RFC 9110, 9.3.6), for a port of a node."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from typing import TYPE_CHECKING

import h11
import trio

from certs.addresses import format_endpoint
from certs.identity import Identity, Role
from tunnel_agent.tls_errors import explain
from tunnel_wire.causes import Cause
from tunnel_wire.sockets import from_trio, prepare
from tunnel_wire.tls import TlsPump, handshake
from tunnelctl.ends import EndFailed, SocketEnd, TlsEnd
from tunnelctl.errors import CommandError, NotReachableError, RefusedError
from tunnelctl.ways import LocalWay

if TYPE_CHECKING:
    from tunnelctl.ways import RemoteWay, Way

CONNECT_TIMEOUT = 15.0
"""Seconds for TCP and TLS."""
ANSWER_TIMEOUT = 60.0
"""Seconds for the answer to CONNECT; the server's own limits are well below."""
MAX_ANSWER = 16 * 1024
"""Longest header of an answer, in bytes."""

_REFUSALS = {401, 403, 404, 407, 421}


async def dial(way: Way, node: str, port: int) -> SocketEnd | TlsEnd:
    """Return an end whose other side is `port` of `node`, a name or an address.

    Raises NotReachableError for the server, RefusedError for what it or the agent does not allow,
    CommandError for a target that fails. Failed or cancelled, nothing is left open.
    """
    end = await reach(way)
    try:
        with trio.fail_after(ANSWER_TIMEOUT):
            ahead = await _ask(way, end, node, port)
    except trio.TooSlowError:
        end.close(reset=True)
        raise CommandError(f"{way}: no answer to CONNECT within {ANSWER_TIMEOUT:g} s") from None
    except BaseException:
        end.close(reset=True)
        raise
    end.ahead = ahead
    return end


async def reach(way: Way) -> SocketEnd | TlsEnd:
    """Connect, and finish TLS where there is some. Raises NotReachableError, RefusedError."""
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            return await (_local(way) if isinstance(way, LocalWay) else _remote(way))
    except trio.TooSlowError:
        raise NotReachableError(f"{way}: no answer within {CONNECT_TIMEOUT:g} s") from None


async def _local(way: LocalWay) -> SocketEnd:
    sock = prepare(socket.socket(socket.AF_UNIX))
    try:
        while True:
            try:
                sock.connect(str(way.path))
                break
            except BlockingIOError:  # its backlog is full
                await trio.sleep(0.01)
    except PermissionError:
        sock.close()
        raise RefusedError(
            f"{way}: permission denied; run it as root, or use a caller's certificate: --server, --identity"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        sock.close()
        raise NotReachableError(
            f"no server listens at {way}: start tunnel-server, name its connect-socket with "
            "--connect-socket, or reach one elsewhere with --server and --identity"
        ) from None
    except OSError as error:
        sock.close()
        raise NotReachableError(f"{way}: {(error.strerror or str(error)).lower()}") from None
    except BaseException:
        sock.close()
        raise
    return SocketEnd(sock)


async def _remote(way: RemoteWay) -> TlsEnd:
    try:
        # Tries the addresses of a name side by side (RFC 8305).
        stream = await trio.open_tcp_stream(way.host, way.port)
    except OSError as error:
        raise NotReachableError(f"{way}: {_explain(error)}") from None
    sock = from_trio(stream.socket)
    pump = TlsPump(way.context, server_hostname=way.host)
    try:
        await handshake(sock, pump)
        identity = Identity.from_peer_certificate(pump.peer_certificate)
        if identity.role is not Role.SERVER:
            raise ValueError(f"it is {identity}")
    except ssl.SSLError as error:
        sock.close()
        raise NotReachableError(f"{way}: {explain(error, way.host, time.time())}") from None
    except OSError as error:
        sock.close()
        raise NotReachableError(f"{way}: {_explain(error)}") from None
    except ValueError as error:
        sock.close()
        raise NotReachableError(f"{way}: what answers there is no tunnel server: {error}") from None
    except BaseException:
        sock.close()
        raise
    return TlsEnd(sock, pump)


async def _ask(way: Way, end: SocketEnd | TlsEnd, node: str, port: int) -> bytes:
    """Have the server connect; the bytes that came behind its answer."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_ANSWER)
    target = format_endpoint(node, port)
    # We shut down before we close: over a Unix socket that tells an end from a program that was killed.
    headers = [("Host", target), ("Tunnel-Close", "half")]
    request = h11.Request(method="CONNECT", target=target, headers=headers)
    said = (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
    try:
        # Who does not want us may be gone before we have spoken, and have said why.
        with contextlib.suppress(EndFailed):
            await end.send(said)
        answer = await _read_answer(end, connection)
    except EndFailed as error:
        raise _cut(way, str(error)) from None
    except h11.RemoteProtocolError:
        raise NotReachableError(f"{way}: what answers there does not speak HTTP CONNECT") from None
    if answer.status_code // 100 == 2:
        return connection.trailing_data[0]
    raise _refusal(way, target, answer)


async def _read_answer(end: SocketEnd | TlsEnd, connection: h11.Connection) -> h11.Response:
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            data = await end.receive()
            if not data:
                raise EndFailed("it closed the connection")
            connection.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("no answer to CONNECT")


def _refusal(way: Way, target: str, answer: h11.Response) -> CommandError:
    phrase = "".join(c if c.isprintable() else "?" for c in bytes(answer.reason).decode("utf-8", "replace"))
    text = f"{target}: {phrase or answer.status_code}"
    cause = next((value for name, value in answer.headers if name == b"tunnel-cause"), b"").decode("latin-1")
    if (
        cause in {Cause.NOT_ALLOWED, Cause.NO_SUCH_NODE, Cause.ADDRESS_SHARED}
        or answer.status_code in _REFUSALS
    ):
        return RefusedError(text)
    if answer.status_code in {400, 405, 501}:
        return NotReachableError(f"{way}: {text}: does it serve HTTP CONNECT?")
    return CommandError(text)


def _cut(way: Way, reason: str) -> CommandError:
    """With TLS 1.3 the server's refusal of our certificate comes when we think that all is well."""
    name = reason.upper().replace(" ", "_")
    again = "get a new one with `tunnelctl caller create` on the server's host"
    if "CERTIFICATE_EXPIRED" in name:
        return RefusedError(f"{way}: the server refuses this caller's certificate as expired: {again}")
    if "CERTIFICATE_REVOKED" in name:
        return RefusedError(f"{way}: the server refuses this caller's certificate as revoked")
    if "UNKNOWN_CA" in name:
        return RefusedError(f"{way}: the server does not know the authority of this certificate: {again}")
    if "ALERT" in name:
        return RefusedError(f"{way}: the server refuses this certificate ({reason})")
    return NotReachableError(f"{way}: no answer to CONNECT: {reason}")


def _explain(error: OSError) -> str:
    # open_tcp_stream tried several addresses, and keeps each one's error in a group.
    group = error.__cause__
    if isinstance(group, ExceptionGroup) and isinstance(group.exceptions[0], OSError):
        error = group.exceptions[0]
    if isinstance(error, socket.gaierror):
        return "its name can't be resolved"
    return (os.strerror(error.errno) if error.errno else str(error)).lower()
