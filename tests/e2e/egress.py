"""kube-apiserver's EgressSelector, protocol HTTPConnect, byte by byte: what it sends, and what it takes."""

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from tests.e2e.network import dial
from tunnelctl.demo.topology import Host

ESTABLISHED = b"HTTP/1.1 200 Connection Established\r\n\r\n"
_BUFFER = 4096
"""Of its bufio.Reader: what else came in these is an error to it."""

Dial = Callable[[], socket.socket]


def over_unix_socket(path: Path) -> Dial:
    """`transport.uds.udsName`."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(30)
        sock.connect(str(path))
        return sock

    return connect


def over_tls(host: Host, address: tuple[str, int], bundle: Path | None) -> Dial:
    """`transport.tcp` with caBundle, clientCert and clientKey; no ALPN, the URL's host is verified."""

    def connect() -> socket.socket:
        context = ssl.create_default_context(cafile=str(bundle / "ca.crt") if bundle else None)
        if bundle:
            context.load_cert_chain(bundle / "caller.crt", bundle / "caller.key")
        return context.wrap_socket(dial(host, address, timeout=30), server_hostname=address[0])

    return connect


def ask(dial: Dial, target: str) -> tuple[socket.socket, bytes]:
    """The connection, and what the EgressSelector has read when it decides about `CONNECT target`."""
    sock = dial()
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answer = b""
    while b"\r\n\r\n" not in answer and (piece := sock.recv(_BUFFER)):
        answer += piece
    return sock, answer


def refusal(dial: Dial, target: str) -> str:
    """The status line of an answer that must not be a 200: all that its user ever sees."""
    sock, answer = ask(dial, target)
    with sock:
        line = answer.split(b"\r\n")[0].decode("ascii")
        assert line.startswith("HTTP/1.1 "), answer
        assert not line.startswith("HTTP/1.1 200"), answer
        return line.removeprefix("HTTP/1.1 ")
