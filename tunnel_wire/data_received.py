"""The event of each DATA frame: compiled, as dataclasses with slots (`events.py`) can not be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunnel_wire.session import Stream


class DataReceived:
    """Payload for a stream. `data` is a view of the caller's buffer: valid until the next `receive`."""

    __slots__ = ("data", "stream")

    def __init__(self, stream: Stream, data: memoryview) -> None:
        self.stream = stream
        self.data = data
