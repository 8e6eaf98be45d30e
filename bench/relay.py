"""A relay of two hops in plain Python: what blocking sockets, threads and OpenSSL can do. For measuring only.

    python -m bench.relay server ENTRANCE WAN CERTIFICATE KEY AUTHORITY
    python -m bench.relay agent  WAN   TARGET CERTIFICATE KEY AUTHORITY

No framing and no multiplexing: each stream has a TLS connection of its own. The agent keeps `SPARE` of them
dialled; the server puts one to use by sending a byte on it. The end of TCP stands for the end of a stream,
which a relay in earnest must not do: a cut would look like an end.

Encryption is by `SSLObject` over memory, 256 KiB at a time; a lock keeps the two directions of one object
apart, because OpenSSL's are not for two threads at once.
"""

import queue
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

SPARE = 64
PIECE = 256 * 1024


class TlsSocket:
    """TLS over a blocking socket; one thread may receive while another sends."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server: bool, host: str) -> None:
        """Do the handshake. Raises OSError."""
        self.sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server, None if server else host)
        self._lock = threading.Lock()
        self._ciphertext = memoryview(bytearray(PIECE))
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(self._out.read())
                if not (data := sock.recv(PIECE)):
                    raise ConnectionResetError("the peer closed it in the handshake") from None
                self._in.write(data)
            else:
                sock.sendall(self._out.read())
                return

    def recv(self) -> bytes:
        """Plaintext; empty at the end. Raises OSError."""
        while True:
            with self._lock, suppress(ssl.SSLWantReadError):
                parts = []
                try:
                    while part := self._tls.read(PIECE):
                        parts.append(part)
                except ssl.SSLWantReadError:
                    pass
                if parts:
                    return b"".join(parts)
            size = self.sock.recv_into(self._ciphertext)
            if not size:
                return b""
            with self._lock:
                self._in.write(self._ciphertext[:size])

    def send(self, data: memoryview | bytes) -> None:
        """Send all of it. Raises OSError."""
        with self._lock:
            self._tls.write(data)
            ciphertext = self._out.read()
        self.sock.sendall(ciphertext)


def splice(plain: socket.socket, tls: TlsSocket) -> None:
    """Carry both directions until both have ended; closes both sockets."""
    outward = threading.Thread(target=_encrypt, args=(plain, tls), daemon=True)
    outward.start()
    with suppress(OSError):
        while data := tls.recv():
            plain.sendall(data)
        plain.shutdown(socket.SHUT_WR)
    outward.join()
    plain.close()
    tls.sock.close()


def _encrypt(plain: socket.socket, tls: TlsSocket) -> None:
    buffer = memoryview(bytearray(PIECE))
    try:
        while size := plain.recv_into(buffer):
            tls.send(buffer[:size])
        tls.sock.shutdown(socket.SHUT_WR)
    except OSError:
        with suppress(OSError):
            tls.sock.shutdown(socket.SHUT_RDWR)


def serve(entrance: tuple[str, int], wan: tuple[str, int], context: ssl.SSLContext) -> None:
    """The server end: a spare connection of the agent's for each caller."""
    spare: queue.Queue[TlsSocket] = queue.Queue()
    listener = socket.create_server(wan, backlog=1024)

    def accept() -> None:
        while True:
            sock = _prepared(listener.accept()[0])
            with suppress(OSError):
                spare.put(TlsSocket(sock, context, server=True, host=""))

    threading.Thread(target=accept, daemon=True).start()
    callers = socket.create_server(entrance, backlog=1024)
    while True:
        caller = _prepared(callers.accept()[0])
        threading.Thread(target=_take, args=(caller, spare), daemon=True).start()


def _take(caller: socket.socket, spare: queue.Queue[TlsSocket]) -> None:
    tls = spare.get()
    try:
        tls.send(b"!")
    except OSError:
        caller.close()
        return
    splice(caller, tls)


def dial(wan: tuple[str, int], target: tuple[str, int], context: ssl.SSLContext) -> None:
    """The agent end: `SPARE` connections, each dialling the target once it is put to use."""
    places = threading.Semaphore(SPARE)
    while True:
        places.acquire()
        threading.Thread(target=_wait, args=(wan, target, context, places), daemon=True).start()


def _wait(
    wan: tuple[str, int], target: tuple[str, int], context: ssl.SSLContext, places: threading.Semaphore
) -> None:
    try:
        tls = TlsSocket(_prepared(socket.create_connection(wan)), context, server=False, host=wan[0])
        first = tls.recv()
        sock = _prepared(socket.create_connection(target))
    except OSError as error:
        print(f"relay: {error}", file=sys.stderr)
        time.sleep(0.1)
        return
    finally:
        places.release()
    if first:
        sock.sendall(first[1:])
        splice(sock, tls)


def _prepared(sock: socket.socket) -> socket.socket:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _context(certificate: Path, key: Path, authority: Path, *, server: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    if server:
        context.num_tickets = 0
    return context


def main() -> None:
    """Run one end until it is killed."""
    role, first, second, certificate, key, authority = sys.argv[1:]
    context = _context(Path(certificate), Path(key), Path(authority), server=role == "server")
    run = serve if role == "server" else dial
    run(_address(first), _address(second), context)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
