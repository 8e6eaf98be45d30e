"""The way through an HTTP proxy: CONNECT (RFC 9110, section 9.3.6). Loaded where there is a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio

from tunnel_agent.proxy import ProxyError

if TYPE_CHECKING:
    import socket

    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.proxy import Proxy

MAX_REPLY_HEADER = 16 * 1024  # bytes
MAX_REPLY = 64 * 1024  # bytes, interim replies (1xx) included


async def open_tunnel(sock: socket.socket, proxy: Proxy, server: Endpoint) -> None:
    """Ask the proxy at the other end of `sock` (plain, non-blocking) to connect to `server`.

    On return the socket carries the tunnel and nothing of it was read. Raises ProxyError, or OSError from the
    socket; cancelled or failed, the socket is of no more use, and the caller closes it.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_REPLY_HEADER)
    headers = [("Host", str(server)), ("User-Agent", "tunnel-agent")]
    if proxy.authorization is not None:
        headers.append(("Proxy-Authorization", proxy.authorization))
    request = connection.send(h11.Request(method="CONNECT", target=str(server), headers=headers))
    await _send_all(sock, (request or b"") + (connection.send(h11.EndOfMessage()) or b""))
    reply = await _read_reply(sock, connection, proxy)
    if not 200 <= reply.status_code < 300:
        raise ProxyError(_refusal(proxy, server, reply.status_code, bytes(reply.reason)))
    # The server says nothing before the agent's ClientHello: bytes behind the header are the proxy's own.
    if connection.trailing_data[0]:
        raise ProxyError(f"the proxy {proxy} sent data of its own after its reply to CONNECT")


async def _read_reply(sock: socket.socket, connection: h11.Connection, proxy: Proxy) -> h11.Response:
    budget = MAX_REPLY
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            raise ProxyError(f"what answers at {proxy} is no HTTP proxy") from None
        if isinstance(event, h11.Response):
            return event
        if event is h11.NEED_DATA:
            data = await _receive(sock, min(budget, 4096))
            if not data:
                raise ProxyError(f"the proxy {proxy} closed the connection without a reply to CONNECT")
            budget -= len(data)
            if budget <= 0:
                raise ProxyError(f"the proxy {proxy} sent {MAX_REPLY} bytes without a final reply to CONNECT")
            connection.receive_data(data)
        elif not isinstance(event, h11.InformationalResponse):
            raise ProxyError(f"the proxy {proxy} closed the connection without a reply to CONNECT")


def _refusal(proxy: Proxy, server: Endpoint, status: int, reason: bytes) -> str:
    phrase = "".join(c if " " <= c <= "~" else "?" for c in reason.decode("latin-1"))[:80]
    said = f"the proxy {proxy} answered {status} {phrase}".rstrip()
    if status == 407:
        wanted = (
            "it refuses this user and password" if proxy.authorization else "it wants a user and password"
        )
        return f'{said}: {wanted}; set proxy = "http://USER:PASSWORD@{proxy.endpoint}"'
    if status in {403, 405}:
        return f"{said}: its operator must allow CONNECT to {server}"
    return f"{said} to CONNECT {server}"


async def _send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        await trio.lowlevel.wait_writable(sock)
        view = view[sock.send(view) :]


async def _receive(sock: socket.socket, size: int) -> bytes:
    await trio.lowlevel.wait_readable(sock)
    return sock.recv(size)
