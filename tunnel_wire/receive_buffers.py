"""Where links receive: one pair of buffers for all of an event loop's."""

from __future__ import annotations

import mmap
from typing import Final

from tunnel_wire.flow import SEGMENT
from tunnel_wire.run_local import RunLocal

ROOM: Final = 16 * 1024
"""Bytes for a frame's header, and for what TLS puts around each 16 KiB of it."""
PIECE: Final = SEGMENT + ROOM
"""Bytes of ciphertext given to the kernel at once, and taken from it: a whole read of a local socket, and
what is put around it. What did not fit would be sent alone and read alone at the other end.
"""


class ReceiveBuffers:
    """They are used without waiting in between, so one pair is enough; get it by `of_this_loop`."""

    __slots__ = ("ciphertext", "plaintext")

    def __init__(self) -> None:
        # A bytearray would be filled with zeros, and 1 MiB resident in an agent that has nothing to carry.
        self.ciphertext = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE))
        self.plaintext = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE))


of_this_loop = RunLocal("tunnel_wire receive buffers", ReceiveBuffers)
"""The pair of the running event loop."""
