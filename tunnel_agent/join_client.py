"""One HTTPS request of a machine that has not joined yet: dial, TLS, ask, close.

Blocking, on the standard library's `http.client`. Only the way to the server (several addresses of one name,
a proxy's CONNECT) is the running agent's own, so that whoever can join can also connect.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from tunnel_agent.proxy import Proxy, ProxyError, choose_proxy
from tunnel_agent.server_names import ServerNames
from tunnel_agent.tls_errors import TlsFailedError, explain, is_cut
from tunnel_wire.tls import strict_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tunnel_agent.endpoint import Endpoint

MAX_ANSWER = 256 * 1024  # bytes


class UnreachableError(Exception):
    """No answer: `sent` tells whether the server may have had the request. One line."""

    def __init__(self, text: str, *, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes

    def refusal(self) -> tuple[str, str]:
        """Return the machine code and the message of an answer that is no success."""
        try:
            error = json.loads(self.body)["error"]
            code, message = (error["code"], error["message"]) if isinstance(error, dict) else ("", error)
        except (ValueError, KeyError, TypeError, RecursionError):
            code, message = "", f"it answered {self.status}"
        printable = "".join(c if c.isprintable() else "?" for c in str(message))  # it ends up on a terminal
        return str(code), printable[:500]

    def document(self) -> dict[str, object] | None:
        """Return the JSON object that the answer is; None if it is none."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None


def client_context() -> ssl.SSLContext:
    """Return a context that verifies, and trusts nobody yet."""
    context = strict_context(server_side=False)
    context.set_alpn_protocols(["http/1.1"])
    return context


@dataclass(frozen=True, slots=True)
class Client:
    """How requests go to one server."""

    server: Endpoint
    proxy: Proxy | None
    timeout: float
    """Seconds, for connecting, and for each piece of the answer."""
    known: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What DNS said last to the agent, by name."""

    @classmethod
    def to(
        cls, server: Endpoint, proxy: str, timeout: float, known: Mapping[str, Sequence[str]] | None = None
    ) -> Client:
        """Choose the way: `proxy` as in the agent's configuration. Raises ValueError for a bad proxy."""
        return cls(server, choose_proxy(proxy, os.environ, server), timeout, known or {})

    def ask(
        self,
        context: ssl.SSLContext,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        check_peer: Callable[[Mapping[str, object] | None], None] | None = None,
    ) -> Answer:
        """Make one connection and one request on it; must not be called from a trio task.

        `check_peer` sees the verified certificate before anything is sent, and may raise. Raises
        UnreachableError, or TlsFailedError where the handshake failed for more than a bad connection.
        """
        sent = False
        try:
            with closing(self._connect(context)) as sock:
                if check_peer is not None:
                    check_peer(sock.getpeercert())
                connection = http.client.HTTPConnection(self.server.host, self.server.port)
                connection.sock = sock
                sent = True
                headers = {"Host": str(self.server), "User-Agent": "tunnel-agent", "Connection": "close"}
                if body is not None:
                    headers["Content-Type"] = "application/json"
                connection.request(method, path, body, headers)
                with closing(connection.getresponse()) as response:
                    content = response.read(MAX_ANSWER + 1)
                    missing = response.length
        except http.client.HTTPException as error:
            text = f"{self.server}: the answer was cut short or is no HTTP ({type(error).__name__})"
            raise UnreachableError(text, sent=sent) from None
        except OSError as error:
            raise UnreachableError(f"{self.server}: {_reason(error)}", sent=sent) from None
        if len(content) > MAX_ANSWER:
            raise UnreachableError(f"{self.server}: the answer is over {MAX_ANSWER} bytes", sent=sent)
        if missing:
            raise UnreachableError(f"{self.server}: the answer was cut short", sent=sent)
        return Answer(response.status, content)

    def _connect(self, context: ssl.SSLContext) -> ssl.SSLSocket:
        try:
            sock = trio.run(_dial, self)
        except trio.TooSlowError:
            text = f"{self.server}: no answer from {self.proxy or self.server} within {self.timeout:g} s"
            raise UnreachableError(text, sent=False) from None
        try:
            sock.settimeout(self.timeout)
            # TLS says where the answer ends; an end without that is somebody's cut, not the server's.
            return context.wrap_socket(sock, server_hostname=self.server.host, suppress_ragged_eofs=False)
        except ssl.SSLError as error:
            failure = explain(error, self.server.host, time.time())
            if failure.kind == "tls-closed":
                raise UnreachableError(f"{self.server}: {failure}", sent=False) from None
            raise TlsFailedError(failure.kind, f"{self.server}: {failure}") from None
        finally:
            sock.close()  # a no-op once wrapped: wrap_socket takes the descriptor away


async def _dial(client: Client) -> socket.socket:
    trio.socket.set_custom_hostname_resolver(ServerNames(client.known))
    with trio.fail_after(client.timeout):
        first = client.proxy.endpoint if client.proxy else client.server
        stream = await trio.open_tcp_stream(first.host, first.port)
        sock = socket.socket(fileno=stream.socket.detach())
        try:
            sock.setblocking(False)
            if client.proxy is not None:
                from tunnel_agent.proxy_tunnel import open_tunnel

                await open_tunnel(sock, client.proxy, client.server)
        except BaseException:
            sock.close()
            raise
        return sock


def _reason(error: OSError) -> str:
    # open_tcp_stream tried several addresses, and keeps each one's error in a group.
    cause = error.__cause__
    if isinstance(cause, ExceptionGroup) and isinstance(cause.exceptions[0], OSError):
        error = cause.exceptions[0]
    if isinstance(error, ProxyError):
        return str(error)
    if isinstance(error, ssl.SSLError) and is_cut(error):
        return "the answer was cut short"
    if isinstance(error, ssl.SSLError):  # its errno is OpenSSL's, not the kernel's
        return f"TLS failed: {(error.reason or str(error)).lower().replace('_', ' ')}"
    if isinstance(error, socket.gaierror):
        return f"its name can't be resolved ({error.strerror})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
