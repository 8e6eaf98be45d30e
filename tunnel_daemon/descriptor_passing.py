"""A message with file descriptors over a Unix stream socket (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

_LENGTH = struct.Struct(">I")
_MAX_MESSAGE = 16 << 20
_AT_ONCE = 200
"""SCM_MAX_FD is 253."""


async def send_with_descriptors(
    stream: trio.SocketStream, message: dict[str, Any], descriptors: Sequence[int]
) -> None:
    """Send both; the receiver gets duplicates. Raises BrokenResourceError, OSError."""
    data = json.dumps(message).encode()
    await stream.send_all(_LENGTH.pack(len(data)) + _LENGTH.pack(len(descriptors)) + data)
    for start in range(0, len(descriptors), _AT_ONCE):
        some = array.array("i", descriptors[start : start + _AT_ONCE])
        await stream.socket.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, some)])


def receive_with_descriptors(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The message, and the descriptors, which are the caller's to close, and not inherited by programs.

    Blocks. Raises OSError and EOFError when the peer goes away, ValueError for what is no such message; no
    descriptor is left open then.
    """
    length, count = struct.unpack(">II", _receive(sock, 2 * _LENGTH.size))
    if length > _MAX_MESSAGE:
        raise ValueError("a message of more than 16 MiB")
    message = json.loads(_receive(sock, length))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")  # noqa: TRY004 - it is what was sent
    descriptors: list[int] = []
    try:
        while len(descriptors) < count:
            data, some, flags, _ = socket.recv_fds(sock, 1, _AT_ONCE)
            descriptors += some
            for descriptor in some:
                os.set_inheritable(descriptor, False)
            if not data or not some or flags & socket.MSG_CTRUNC:
                raise EOFError("not all descriptors came")
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return message, descriptors


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise EOFError("the peer has gone")
        data += part
    return data
