"""A CONNECT server of blocking sockets and OpenSSL's own reader: what the client meets, without a tunnel."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from certs.authority import Authority
from certs.files import StateDirectory
from certs.identity import Identity, Role
from certs.requests import key_pem, new_key
from tunnelctl.ways import AUTHORITY, CERTIFICATE, KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OK = b"HTTP/1.1 200 Connected\r\n\r\n"


def echo(caller: socket.socket, _target: str) -> None:
    """Give back what comes, up to its end, then say bye and end too."""
    caller.sendall(OK)
    while data := caller.recv(65536):
        caller.sendall(data)
    caller.sendall(b" bye")


def until(expected: socket.socket, marker: bytes) -> bytes:
    """What comes, up to and with `marker`."""
    seen = b""
    while not seen.endswith(marker):
        data = expected.recv(1)
        if not data:
            break
        seen += data
    return seen


@contextlib.contextmanager
def serving(
    listener: socket.socket, behave: Callable[[socket.socket, str], None], tls: ssl.SSLContext | None = None
) -> Iterator[None]:
    """Serve each connection in a thread until the end of the block.

    `behave` gets the caller's socket, behind the request's header, and what was asked for: NODE:PORT.
    """
    listener.settimeout(0.05)
    over = threading.Event()

    def serve(caller: socket.socket) -> None:
        caller.settimeout(10)
        with contextlib.suppress(OSError, ssl.SSLError):
            if tls is not None:
                caller = tls.wrap_socket(caller, server_side=True, suppress_ragged_eofs=False)
            with caller:
                head = until(caller, b"\r\n\r\n").decode()
                if head.startswith("CONNECT "):
                    behave(caller, head.split()[1])
                    if isinstance(caller, ssl.SSLSocket):
                        caller.unwrap()

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                thread = threading.Thread(target=serve, args=(listener.accept()[0],))
                threads.append(thread)
                thread.start()

    threads = [threading.Thread(target=accept)]
    with listener:
        threads[0].start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(15)


def unix_listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    return listener


class Pki:
    """An authority, a server's context, and callers' directories."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.authority = Authority.create(StateDirectory.create(directory / "authority"), "example.org")

    def server(self, role: Role = Role.SERVER) -> ssl.SSLContext:
        """A context that asks for a certificate, as the tunnel's port does."""
        where = Path(tempfile.mkdtemp(dir=self.directory)) / "peer"
        if role is Role.SERVER:
            key = new_key()
            pem = self.authority.issue_server(key.public_key(), "main", [], ["localhost"])
            self._write(where, pem, key)
        else:
            self.identity(where, role=role)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(where / CERTIFICATE, where / KEY)
        context.load_verify_locations(cafile=where / AUTHORITY)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def identity(self, where: Path, *, role: Role = Role.CALLER, **options) -> Path:
        """A directory as `tunnelctl caller create` writes it."""
        key = new_key()
        issue = {Role.CALLER: self.authority.issue_caller, Role.NODE: self._issue_node}[role]
        self._write(where, issue(key.public_key(), "ci", **options), key)
        return where

    def _issue_node(self, key, name: str) -> str:
        return self.authority.issue_node(key, name, [])

    def _write(self, where: Path, pem: str, key) -> None:
        where.mkdir()
        (where / CERTIFICATE).write_text(pem)
        (where / KEY).write_bytes(key_pem(key))
        (where / AUTHORITY).write_text(self.authority.pem)


def caller_of(connection: ssl.SSLSocket) -> Identity:
    return Identity.from_peer_certificate(connection.getpeercert())
