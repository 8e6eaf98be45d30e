"""What the admin API tells: plain values, made by the core, sent as JSON.

Field names are the JSON's keys. Times are aware datetimes (ISO 8601, UTC, in JSON); units stand
in the names.
"""

from __future__ import annotations

import dataclasses
import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True, slots=True)
class LinkView:
    """One link of a node."""

    index: int
    """Its place among the agent's links; the one that replaces it may have the same."""
    remote_address: str
    since: datetime.datetime
    calls: int
    """That it carries."""
    rtt_ms: float | None = None
    unanswered_seconds: float = 0.0
    """For which a PING has been open and nothing has come."""
    retiring: bool = False
    """It gets no new calls: another one takes, or has taken, its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeView:
    """One node the server knows."""

    name: str
    addresses: tuple[str, ...] = ()
    """What its certificate claims."""
    captured: tuple[str, ...] = ()
    """Those of them that callers are captured for."""
    connected: bool = False
    since: datetime.datetime | None = None
    """When it connected, or was last seen; None if never."""
    agent_version: str = ""
    remote_address: str = ""
    """Where its newest link comes from: usually the NAT's address."""
    rtt_ms: float | None = None
    """Of that link."""
    links: tuple[LinkView, ...] = ()
    """The newest last."""
    open_calls: int = 0
    suspended_calls: int = 0
    """Those of them that wait for the node to come back."""
    bytes_up: int = 0
    """To the node, since the server started."""
    bytes_down: int = 0
    """From the node."""
    problem: str | None = None
    """What an operator should look at, in one line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForgottenView:
    """What was known of a node that is forgotten now."""

    name: str
    addresses: tuple[str, ...] = ()
    """Free for others."""
    certificate_serial: str = ""
    """Of the certificate that it was issued last, in hexadecimal."""
    certificate_expires: datetime.datetime | None = None
    certificate_revoked: str = ""
    """When that one was revoked, and why. Empty: until it expires, the node is known again if it links."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenerView:
    """One listening socket."""

    name: str
    address: str
    """ADDRESS:PORT."""
    target: str | None = None
    """NODE:PORT of a fixed listener."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontendView:
    """The calls that came in one way, since the server started."""

    name: str
    calls: int
    failed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class InterceptionView:
    """Whether connections are captured."""

    state: Literal["off", "active", "failed"]
    addresses: int = 0
    restored: int = 0
    """How often the table was put back."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class MappingView:
    """One captured port."""

    port: int
    listener_port: int
    source: str
    """Where it comes from: built in, the configuration, tunnelctl."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureView:
    """One call that failed, lately."""

    time: datetime.datetime
    frontend: str
    caller: str
    node: str
    target: str
    cause: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredecessorView:
    """A server process that was replaced, and has not ended yet."""

    pid: int
    version: str
    calls_open: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StatusView:
    """The server at a glance."""

    version: str
    build: str
    """`compiled` or `interpreted`."""
    instance: str
    started: datetime.datetime
    uptime_seconds: float
    listeners: tuple[ListenerView, ...]
    interception: InterceptionView
    nodes_known: int
    nodes_connected: int
    calls_open: int
    memory_used_bytes: int
    memory_budget_bytes: int
    calls_suspended: int = 0
    """Those of `calls_open` that wait for their node to come back."""
    frontends: tuple[FrontendView, ...] = ()
    mappings: tuple[MappingView, ...] = ()
    mapping_problems: tuple[str, ...] = ()
    """Bad entries of the configuration, each by name."""
    recent_failures: tuple[FailureView, ...] = ()
    """Newest last."""
    predecessors: tuple[PredecessorView, ...] = ()
    """Newest first."""


class Mappings(Protocol):
    """What the admin API needs of the port mappings.

    Both may block on the disk, and are called in a thread; both raise ValueError for what can't be and
    StateError for what can't be kept, in words for the operator.
    """

    def add(self, port: int, listener_port: int) -> object:
        """Map a port, and keep that over restarts."""

    def remove(self, port: int) -> object:
        """Undo `add`, and keep that too."""


def to_json(view: DataclassInstance) -> dict[str, object]:
    """Return a view as what json.dumps takes."""
    return {field.name: _plain(getattr(view, field.name)) for field in dataclasses.fields(view)}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, datetime.datetime):
        utc = value.astimezone(datetime.UTC)
        return utc.isoformat(timespec="seconds").replace("+00:00", "Z")
    return value
