"""The end of a link that the other end must hear of."""

from __future__ import annotations

import socket
from contextlib import suppress

import trio

from tunnel_wire.sockets import unacknowledged
from tunnel_wire.tls import RECEIVE_SIZE, receive_some


async def hang_up(sock: socket.socket, last: bytes, patience: float, longest: float) -> None:
    """Have `last` arrive, behind what the kernel has yet to send. The caller closes `sock`.

    It gives up when the other end has taken nothing for `patience` seconds, and after `longest`. Cancelling
    it does not end it: whoever is cancelled has to say goodbye all the same. Raises OSError.
    """
    rest = memoryview(last)
    ends, left = trio.current_time() + longest, len(rest) + unacknowledged(sock)
    with trio.CancelScope(shield=True):
        while True:
            owed = left
            with trio.move_on_at(min(trio.current_time() + patience, ends)):
                while rest:
                    await trio.lowlevel.wait_writable(sock)
                    with suppress(BlockingIOError):
                        rest = rest[sock.send(rest) :]
                sock.shutdown(socket.SHUT_WR)
                # Closed with something unread, the kernel sends a RST, and what is still on its way gets lost
                # (RFC 2525, section 2.17): so wait until the other end has read all of it, and closes.
                while await receive_some(sock, RECEIVE_SIZE):
                    await trio.lowlevel.checkpoint()
                return
            left = len(rest) + unacknowledged(sock)
            if not 0 < left < owed or trio.current_time() >= ends:
                return
