"""What a connection reports to whoever feeds it bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tunnel_wire.data_received import DataReceived

if TYPE_CHECKING:
    from tunnel_wire.hello import Hello
    from tunnel_wire.session import Stream


@dataclass(slots=True)
class EndReceived:
    """The peer ended its direction: nothing comes after what has come."""

    stream: Stream


@dataclass(slots=True)
class StreamReset:
    """The stream is gone, reset by the peer, by a rule of the protocol, or with its link
    (`stream.end_cause`).
    """

    stream: Stream


@dataclass(slots=True)
class RoomGained:
    """The peer granted credit, or receipt freed kept bytes: `stream.room()` may have grown."""

    stream: Stream


@dataclass(slots=True)
class Answered:
    """The answer to our CONNECT: `stream.state` is OPEN, or `stream.refusal` says why not."""

    stream: Stream


@dataclass(slots=True)
class StreamRequested:
    """The peer asks for a stream to `stream.host`, `stream.port`; `accept` or `refuse` it."""

    stream: Stream


@dataclass(slots=True)
class HelloReceived:
    """The peer's hello. `hello` is None when a stock HTTP/2 peer refused the request."""

    hello: Hello | None


@dataclass(slots=True)
class DrainReceived:
    """The peer retires this link."""

    reason: str
    detail: str


Event = (
    DataReceived
    | EndReceived
    | StreamReset
    | RoomGained
    | Answered
    | StreamRequested
    | HelloReceived
    | DrainReceived
)
