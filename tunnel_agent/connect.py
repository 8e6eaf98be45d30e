"""One way to one server: TCP, perhaps through a proxy, and TLS with both ends known."""

from __future__ import annotations

import socket
import ssl
import time
from typing import TYPE_CHECKING

import trio

from tunnel_agent.credentials import Credentials, check_server
from tunnel_agent.proxy import Proxy, ProxyError
from tunnel_agent.tls_errors import TlsFailedError, explain
from tunnel_daemon.descriptors import describe
from tunnel_wire.sockets import from_trio
from tunnel_wire.tls import TlsPump, handshake

if TYPE_CHECKING:
    from tunnel_agent.endpoint import Endpoint


class ConnectError(Exception):
    """The server was not reached: `kind` for comparing one failure with the next, the text for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


async def connect(
    server: Endpoint, proxy: Proxy | None, credentials: Credentials, timeout: float
) -> tuple[socket.socket, TlsPump]:
    """Connect to `server` and finish TLS; return a plain non-blocking socket and the pump, ready for a Link.

    All of it within `timeout` seconds. Raises ConnectError; failed or cancelled, nothing is left open.
    TLS 1.3 lets the server refuse our certificate only after we are done: that shows on the link's first
    read.
    """
    doing = [f"connecting to {proxy or server}"]
    with trio.move_on_after(timeout):
        try:
            return await _connect(server, proxy, credentials, doing)
        except TlsFailedError as error:
            raise ConnectError(error.kind, f"{server}: {error}") from None
        except ssl.SSLError as error:
            failure = explain(error, server.host, time.time())
            raise ConnectError(failure.kind, f"{server}: {failure}") from None
        except ProxyError as error:
            raise ConnectError(f"proxy:{str(error)[:80]}", f"{server}: {error}") from None
        except OSError as error:
            kind, text = _explain_os(error)
            raise ConnectError(kind, f"{server}: {doing[0]}: {text}") from None
    raise ConnectError(f"timed-out:{doing[0]}", f"{server}: {doing[0]}: no answer within {timeout:g} s")


async def _connect(
    server: Endpoint, proxy: Proxy | None, credentials: Credentials, doing: list[str]
) -> tuple[socket.socket, TlsPump]:
    first = proxy.endpoint if proxy else server
    # Tries the addresses of a name side by side, a quarter of a second apart (RFC 8305).
    # As bytes, here and to OpenSSL: text has Python load its IDNA tables, though it is ASCII.
    stream = await trio.open_tcp_stream(first.host.encode("ascii"), first.port)
    sock = from_trio(stream.socket)
    try:
        if proxy is not None:
            doing[0] = f"CONNECT through {proxy}"
            try:
                # Most agents have no proxy, and no use for h11.
                from tunnel_agent.proxy_tunnel import open_tunnel
            except ImportError as error:
                raise ProxyError(f"has this agent been replaced? Restart it ({error})") from None
            await open_tunnel(sock, proxy, server)
        doing[0] = "TLS"
        pump = TlsPump(credentials.context, server_hostname=server.host.encode("ascii"))
        await handshake(sock, pump)
        check_server(pump.alpn, pump.peer_certificate, credentials.identity)
    except BaseException:
        sock.close()
        raise
    return sock, pump


def _explain_os(error: OSError) -> tuple[str, str]:
    # open_tcp_stream tried several addresses, and keeps each one's error in a group.
    cause = error.__cause__
    if isinstance(cause, ExceptionGroup):
        first = cause.exceptions[0]
        if isinstance(first, OSError):
            error = first
    if isinstance(error, socket.gaierror):
        return "unresolvable", f"its name can't be resolved ({error.strerror})"
    if error.errno is None:
        return "failed", str(error)
    return f"errno:{error.errno}", describe(error)
