"""`tunnel-received` and `tunnel-limit`: where a stream goes on, on a new link (spec.md, 7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpack import NeverIndexedHeaderTuple

from tunnel_wire.hello import read_number

if TYPE_CHECKING:
    from tunnel_wire.flow import Incoming
    from tunnel_wire.hello import Headers


@dataclass(frozen=True, slots=True)
class Offsets:
    """What one end has received of a stream, and the highest offset that it has granted. In bytes."""

    received: int
    limit: int

    def to_headers(self) -> Headers:
        """The two fields. Those of a new stream are the same for all: worth a place in HPACK's table."""
        fields = [(b"tunnel-received", b"%d" % self.received), (b"tunnel-limit", b"%d" % self.limit)]
        return [NeverIndexedHeaderTuple(*field) for field in fields] if self.received else fields

    @classmethod
    def of(cls, incoming: Incoming) -> Offsets:
        """Of the direction that comes here."""
        return cls(incoming.received, incoming.granted)

    @classmethod
    def read(cls, fields: dict[str, str]) -> Offsets | None:
        """The peer's; None if they are missing, garbled, or contradict each other."""
        received, limit = read_number(fields.get("received", "")), read_number(fields.get("limit", ""))
        if received is None or limit is None or limit < received:
            return None
        return cls(received, limit)
