"""The small web service on an edge: `python service.py NAME PORT [ADDRESS]`. Standard library only.

GET / says who answers and who asked; GET /events counts seconds as server-sent events; PUT and POST anywhere
answer with length and sha256 of what came; GET /download?mib=N sends that much.
"""

import hashlib
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_PIECE = 1 << 16
_MIB = 1 << 20


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    edge = ""

    def do_GET(self) -> None:
        """Answer one GET."""
        url = urlsplit(self.path)
        if url.path == "/events":
            self._events()
        elif url.path == "/download":
            self._download(int(parse_qs(url.query).get("mib", ["1"])[0]))
        elif url.path == "/":
            host, port = self.client_address[:2]
            seen = f"you asked for {self.headers['Host']}, and seem to come from {host}:{port}"
            self._text(f"{self.edge} here: {seen}\n")
        else:
            self._text("there are /, /events and /download?mib=N\n", HTTPStatus.NOT_FOUND)

    def do_PUT(self) -> None:
        """Read an upload and say what it was."""
        digest, length = hashlib.sha256(), 0
        for piece in self._body():
            digest.update(piece)
            length += len(piece)
        self._text(f"{length} bytes, sha256 {digest.hexdigest()}\n")

    do_POST = do_PUT  # noqa: N815  the name is http.server's

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left > 0 and (piece := self.rfile.read(min(left, _PIECE))):
            left -= len(piece)
            yield piece

    def _text(self, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self) -> None:
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(3600):
            self.wfile.write(f"id: {number}\ndata: {self.edge}, second {number}\n\n".encode())
            time.sleep(1)

    def _download(self, mib: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(mib * _MIB))
        self.end_headers()
        piece = bytes(_MIB)
        for _ in range(mib):
            self.wfile.write(piece)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Log a caller that went away in one line; it is no error of ours."""
        print(f"{client_address}: {sys.exc_info()[1]}", file=sys.stderr)


def main(name: str, port: int, address: str = "0.0.0.0") -> None:  # noqa: S104  the namespace is the edge
    """Serve until killed."""
    _Handler.edge = name
    _Server((address, port), _Handler).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4])
