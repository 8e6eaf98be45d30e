"""The end of a link that the other end must hear of."""

from __future__ import annotations

import socket

import trio

from tunnel_wire.tls import RECEIVE_SIZE, receive_some, send_all


async def hang_up(sock: socket.socket, last: bytes, patience: float) -> None:
    """Have `last` arrive, if the other end takes it within `patience` seconds. The caller closes `sock`.

    Cancelling it does not end it: whoever is cancelled has to say goodbye all the same. Raises OSError.
    """
    with trio.CancelScope(deadline=trio.current_time() + patience, shield=True):
        await send_all(sock, last)
        sock.shutdown(socket.SHUT_WR)
        # Closed with something unread, the kernel sends a RST, and what is still on its way gets lost (RFC
        # 2525, section 2.17): so wait until the other end has read all of it, and closes.
        while await receive_some(sock, RECEIVE_SIZE):
            await trio.lowlevel.checkpoint()
