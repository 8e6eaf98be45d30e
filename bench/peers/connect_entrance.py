"""A TCP entrance for a proxy that wants to be asked: each caller gets an HTTP CONNECT on a Unix socket first.

    connect_entrance.py LISTEN-HOST:PORT SOCKET TARGET-HOST:PORT

Bytes are spliced in the kernel, by two threads a caller, so that this costs the bytes as little as it can.
"""

import fcntl
import os
import socket
import sys
import threading
from contextlib import suppress

PIECE = 1024 * 1024
ANSWER_LIMIT = 4096  # bytes of an answer's headers


def main() -> None:
    """Say that callers may come, and serve until ended."""
    listen, path, target = sys.argv[1:]
    host, _, port = listen.rpartition(":")
    with socket.create_server((host, int(port)), backlog=1024) as listener:
        print("ready", flush=True)
        while True:
            caller, _ = listener.accept()
            threading.Thread(target=serve, args=(caller, path, target), daemon=True).start()


def serve(caller: socket.socket, path: str, target: str) -> None:
    """Connect one caller; whatever fails closes it."""
    with caller, socket.socket(socket.AF_UNIX) as proxy, suppress(OSError):
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        proxy.connect(path)
        proxy.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
        if answer(proxy).split(b" ", 2)[1:2] != [b"200"]:
            return
        up = threading.Thread(target=splice, args=(caller, proxy), daemon=True)
        up.start()
        splice(proxy, caller)
        up.join()


def answer(proxy: socket.socket) -> bytes:
    """The answer's headers and not a byte more: what follows is the target's. Raises OSError."""
    headers = b""
    while not headers.endswith(b"\r\n\r\n"):
        byte = proxy.recv(1)
        if not byte or len(headers) > ANSWER_LIMIT:
            raise ConnectionError("no answer to CONNECT")
        headers += byte
    return headers


def splice(source: socket.socket, sink: socket.socket) -> None:
    """All bytes of one direction, then its end."""
    outlet, inlet = os.pipe()
    with suppress(OSError):  # an ordinary user may have only so much of it
        fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, PIECE)  # the usual 64 KiB: a third of the rate
    try:
        while size := os.splice(source.fileno(), inlet, PIECE):
            while size:
                size -= os.splice(outlet, sink.fileno(), size)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # A reset, or an end that is gone: the other direction must not wait for it.
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(inlet)
        os.close(outlet)


if __name__ == "__main__":
    main()
