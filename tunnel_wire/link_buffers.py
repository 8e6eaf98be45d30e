"""Where links put what they receive and send: one set of buffers for all of an event loop's."""

from __future__ import annotations

import mmap
from typing import Final

from tunnel_wire.flow import SEGMENT
from tunnel_wire.record_sizes import MOST_CONTENT
from tunnel_wire.run_local import RunLocal

ROOM: Final = 16 * 1024
"""Bytes for a frame's header, and for what TLS puts around each 16 KiB of it."""
PIECE: Final = SEGMENT + ROOM
"""Bytes of ciphertext given to the kernel at once, and taken from it: a whole read of a local socket, and
what is put around it. What did not fit would be sent alone and read alone at the other end.
"""


class LinkBuffers:
    """They are used without waiting in between, so one set is enough; get it by `of_this_loop`."""

    __slots__ = ("ciphertext", "plaintext", "record", "sealed")

    def __init__(self) -> None:
        self.ciphertext = _buffer(MOST_CONTENT + ROOM + PIECE)
        """What is received, behind the part of a record that was left over."""
        self.plaintext = _buffer(MOST_CONTENT + PIECE)
        self.record = _buffer(MOST_CONTENT + 1)
        """The content of the record that is sealed next, and its type."""
        self.sealed = _buffer(2 * PIECE)
        """What is to be sent."""


def _buffer(size: int) -> memoryview:
    # A bytearray would be filled with zeros, and 2 MiB resident in an agent that has nothing to carry.
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))


of_this_loop = RunLocal("tunnel_wire link buffers", LinkBuffers)
"""The set of the running event loop."""
