"""The callers' side: plain sockets, so that the program between them and the target is what is measured."""

import selectors
import socket
import time
from collections.abc import Sequence

PIECE = 1024 * 1024
PATIENCE_S = 20.0  # for one answer; what takes longer has failed


def connect(entrance: tuple[str, int], wish: bytes) -> socket.socket:
    """A connection whose target will do `wish` (see bench.target)."""
    sock = socket.create_connection(entrance, timeout=PATIENCE_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(wish)
    except BaseException:
        sock.close()
        raise
    return sock


def expect(sock: socket.socket, size: int) -> None:
    """Receive exactly `size` bytes. Raises OSError."""
    while size:
        data = sock.recv(size)
        if not data:
            raise ConnectionResetError("the stream ended early")
        size -= len(data)


def connect_idle(entrance: tuple[str, int]) -> socket.socket:
    """A connection that carried one byte, and carries no more."""
    sock = connect(entrance, b"o")
    try:
        expect(sock, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def receive(socks: Sequence[socket.socket], seconds: float) -> tuple[list[int], float]:
    """Receive from all of them for a time; bytes of each, and the seconds it took. Raises OSError.

    One thread and one buffer: at 6 GB/s of 16 direct streams that is not what limits.
    """
    buffer = memoryview(bytearray(PIECE))
    received = dict.fromkeys(socks, 0)
    with selectors.EpollSelector() as ready:
        for sock in socks:
            sock.setblocking(False)
            ready.register(sock, selectors.EVENT_READ)
        began = time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            for key, _ in ready.select(end - now):
                source = key.fileobj
                assert isinstance(source, socket.socket)
                size = source.recv_into(buffer)
                if not size:
                    raise ConnectionResetError("a stream ended early")
                received[source] += size
    return list(received.values()), now - began


def percentiles(samples: Sequence[float], *wanted: float) -> list[float]:
    """The wanted percentiles (of 100), each one of the samples."""
    ordered = sorted(samples)
    return [ordered[min(len(ordered) - 1, int(len(ordered) * each / 100))] for each in wanted]
