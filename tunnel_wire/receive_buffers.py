"""Where links receive: one pair of buffers for all of an event loop's."""

from __future__ import annotations

import mmap

import trio

from tunnel_wire.flow import SEGMENT

PIECE = SEGMENT + 16 * 1024
"""Bytes of ciphertext given to the kernel at once, and taken from it: a whole read of a local socket, its
frame's header, and what TLS puts around each 16 KiB. What did not fit would be sent alone and read alone at
the other end.
"""


class ReceiveBuffers:
    """They are used without waiting in between, so one pair is enough; get it by `of_this_loop`."""

    __slots__ = ("ciphertext", "plaintext")

    def __init__(self) -> None:
        # A bytearray would be filled with zeros, and 1 MiB resident in an agent that has nothing to carry.
        self.ciphertext = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE))
        self.plaintext = memoryview(mmap.mmap(-1, PIECE, flags=mmap.MAP_PRIVATE))


_shared: trio.lowlevel.RunVar[ReceiveBuffers] = trio.lowlevel.RunVar("tunnel_wire receive buffers")


def of_this_loop() -> ReceiveBuffers:
    """The pair of the running event loop."""
    try:
        return _shared.get()
    except LookupError:
        buffers = ReceiveBuffers()
        _shared.set(buffers)
        return buffers
