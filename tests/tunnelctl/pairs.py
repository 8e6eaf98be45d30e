"""Two connected sockets: a blocking one for the test, a non-blocking one for what it tests."""

import socket

from tunnel_wire.sockets import prepare


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = socket.create_connection(listener.getsockname())
        theirs = listener.accept()[0]
    mine.settimeout(10)
    return mine, prepare(theirs)


def unix_pair() -> tuple[socket.socket, socket.socket]:
    mine, theirs = socket.socketpair()
    mine.settimeout(10)
    return mine, prepare(theirs)


def read_to_end(sock: socket.socket) -> bytes:
    return b"".join(iter(lambda: sock.recv(65536), b""))
