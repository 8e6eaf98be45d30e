"""The program behind every tunnel of the suite: `python -m bench.target ADDRESS PORT`, until its stdin ends.

A caller's first byte says what it wants:

    o   one byte back, then nothing until the caller closes
    e   whatever comes, back
    d   bytes as fast as they go, until the caller closes
    u   eight bytes of length and that many bytes, answered with one; again and again

What is quick is served by one epoll loop; each `e`, `d` and `u` has a thread with blocking calls, so that
this program is never what limits a measurement (the peer "direct" shows that).
"""

import os
import selectors
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

BLOCK = 1024 * 1024
BACKLOG = 4096


def main() -> None:
    """Listen, and serve until stdin ends: whoever started this is gone then."""
    with socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=BACKLOG) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        sys.stdin.read()


def serve(listener: socket.socket) -> None:
    """Accept callers for ever."""
    listener.setblocking(False)
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in waiting.select():
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                with suppress(OSError):  # the caller has gone before we looked
                    caller, _ = listener.accept()
                    caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    waiting.register(caller, selectors.EVENT_READ)
            elif not _first_byte(sock, waiting):
                waiting.unregister(sock)
                sock.close()


def _first_byte(sock: socket.socket, waiting: selectors.BaseSelector) -> bool:
    """Do what a caller asks; false if it has gone."""
    try:
        wish = sock.recv(1)
        if wish == b"o":
            sock.send(b"!")
            return True
    except OSError:
        return False
    work = _WORK.get(wish)
    if work is None:
        return False
    waiting.unregister(sock)
    sock.setblocking(True)
    threading.Thread(target=_serve_alone, args=(work, sock), daemon=True).start()
    return True


def _serve_alone(work: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock, suppress(OSError):
        work(sock)


def _echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def _down(sock: socket.socket) -> None:
    block = os.urandom(BLOCK)
    while True:
        sock.sendall(block)


def _up(sock: socket.socket) -> None:
    buffer = memoryview(bytearray(BLOCK))
    while len(length := sock.recv(8, socket.MSG_WAITALL)) == 8:
        left = int.from_bytes(length, "big")
        while left:
            size = sock.recv_into(buffer[: min(left, BLOCK)])
            if not size:
                return
            left -= size
        sock.sendall(b"!")


_WORK = {b"e": _echo, b"d": _down, b"u": _up}

if __name__ == "__main__":
    main()
