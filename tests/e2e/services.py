"""What runs on the edges of these tests: `python services.py KIND PORT MACHINE`. It knows of no tunnel.

http       answers what came, as JSON; GET /pattern?mib=N&seconds=S, /piece?kib=N, /events; PUT digests
websocket  echoes messages, by the websockets library
dns        answers, over UDP, that every name has the address MACHINE
proxy      an HTTP CONNECT proxy that wants user:secret
pattern N  no service: writes N MiB of the pattern to standard output
"""

import base64
import functools
import hashlib
import json
import random
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MIB = 1 << 20
PROXY_USER = "user:secret"


def pattern(mib: int) -> Iterator[bytes]:
    """`mib` MiB of which no two are equal, so that nothing lost, repeated or swapped goes unseen."""
    block = random.Random(1).randbytes(MIB)
    for number in range(mib):
        yield number.to_bytes(8) + block[8:]


STEP = 0.1
"""Seconds between two pieces of what is paced."""


def paced(mib: int, seconds: float) -> Iterator[bytes]:
    """The pattern, in pieces that take so long together; 0: at once."""
    steps = max(1, round(seconds / STEP / mib))
    for block in pattern(mib):
        for step in range(steps):
            yield block[step * MIB // steps : (step + 1) * MIB // steps]
            time.sleep(STEP if seconds else 0)


@functools.cache
def pattern_digest(mib: int) -> str:
    """The sha256 of the pattern."""
    digest = hashlib.sha256()
    for block in pattern(mib):
        digest.update(block)
    return digest.hexdigest()


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _echo(self) -> None:
        digest, length = hashlib.sha256(), 0
        for piece in self._body():
            digest.update(piece)
            length += len(piece)
        answer = {
            "method": self.command,
            "path": self.path,
            "host": self.headers["Host"],
            "length": length,
            "sha256": digest.hexdigest(),
            "caller": self.client_address[0],
            "machine": sys.argv[3],
        }
        body = json.dumps(answer).encode()
        self._head("application/json", len(body))
        self.wfile.write(body)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/pattern":
            query = parse_qs(url.query)
            mib = int(query["mib"][0])
            self._head("application/octet-stream", mib * MIB)
            for piece in paced(mib, float(query.get("seconds", ["0"])[0])):
                self.wfile.write(piece)
        elif url.path == "/piece":
            self.close_connection = True
            length = int(parse_qs(url.query)["kib"][0]) * 1024
            self._head("application/octet-stream", length)
            self.wfile.write(next(pattern(1))[:length])
        elif url.path == "/events":
            self.close_connection = True
            self._head("text/event-stream", None)
            for number in range(1000):
                self.wfile.write(f"data: {number} {time.time()}\n\n".encode())
                time.sleep(0.05)
        else:
            self._echo()

    do_PUT = do_POST = do_DELETE = do_PATCH = _echo  # noqa: N815  http.server asks for them

    def _head(self, kind: str, length: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left > 0 and (piece := self.rfile.read(min(left, MIB))):
            left -= len(piece)
            yield piece

    def log_message(self, *_: object) -> None:
        """Say nothing: ten thousand requests are made."""


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        print(f"{client_address}: {sys.exc_info()[1]!r}", flush=True)


def serve_http(port: int) -> None:
    _HttpServer(("0.0.0.0", port), _Http).serve_forever()


def serve_websocket(port: int) -> None:
    from websockets.sync.server import ServerConnection, serve

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "0.0.0.0", port, ping_interval=None) as server:
        server.serve_forever()


def serve_dns(port: int) -> None:
    """RFC 1035, 4.1: one question, and one A record for it, which lives for no time."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", port))
        while True:
            asked, caller = server.recvfrom(512)
            end = asked.index(0, 12) + 5
            is_address = asked[end - 4 : end - 2] == b"\0\1"
            counts = bytes([0, 1, 0, is_address, 0, 0, 0, 0])
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(sys.argv[3])
            server.sendto(asked[:2] + b"\x81\x80" + counts + asked[12:end] + record * is_address, caller)


def serve_proxy(port: int) -> None:
    credentials = base64.b64encode(PROXY_USER.encode()).decode()
    with socket.create_server(("0.0.0.0", port)) as listener:
        while True:
            caller, _ = listener.accept()
            threading.Thread(target=_proxy_one, args=(caller, credentials), daemon=True).start()


def _proxy_one(caller: socket.socket, credentials: str) -> None:
    with caller:
        head = b""
        while b"\r\n\r\n" not in head:
            head += caller.recv(1)
        method, target, *_ = head.decode().split()
        print(f"{method} {target}", flush=True)
        if f"Basic {credentials}" not in head.decode():
            caller.sendall(b"HTTP/1.1 407 Who are you?\r\nProxy-Authenticate: Basic realm=factory\r\n\r\n")
            return
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            caller.sendall(b"HTTP/1.1 200 Go ahead\r\n\r\n")
            _relay(caller, server)


def _relay(one: socket.socket, other: socket.socket) -> None:
    to = {one: other, other: one}
    while to:
        for sock in select.select(list(to), [], [])[0]:
            try:
                piece = sock.recv(1 << 16)
                to[sock].sendall(piece)
            except OSError:
                return
            if not piece:
                to.pop(sock).shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    kind, number = sys.argv[1], int(sys.argv[2])
    if kind == "pattern":
        for part in pattern(number):
            sys.stdout.buffer.write(part)
    else:
        services = {"http": serve_http, "websocket": serve_websocket, "dns": serve_dns, "proxy": serve_proxy}
        services[kind](number)
