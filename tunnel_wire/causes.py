"""Why a stream could not be opened, and how that stands on the wire (spec.md, 5.1)."""

from enum import StrEnum


class Cause(StrEnum):
    """Why a call failed. The values are the wire's `tunnel-cause` and the label of metrics."""

    NOT_ALLOWED = "not-allowed"
    GONE = "gone"
    ENDED = "ended"
    """Of a stream to be resumed: both of its directions have ended."""
    RESET = "reset"
    """Of a stream to be resumed: it was reset."""
    NOT_ON_THIS_NODE = "not-on-this-node"
    REFUSED = "refused"
    UNRESOLVABLE = "unresolvable"
    UNREACHABLE = "unreachable"
    NO_ROOM = "no-room"
    TIMED_OUT = "timed-out"
    FAILED = "failed"
    NO_SUCH_NODE = "no-such-node"
    """Never on the wire: the server knows no node for this call."""
    ADDRESS_SHARED = "address-shared"
    """Never on the wire: several nodes claim the address, and none of them is guessed."""
    AWAY = "away"
    """Never on the wire: the node has no link."""
    LINK_LOST = "link-lost"
    """Never on the wire: the link ended before the answer."""
    CANCELLED = "cancelled"
    """Never on the wire: whoever asked gave up."""


STATUS_OF_CAUSE = {
    Cause.NOT_ALLOWED: 403,
    Cause.GONE: 410,
    Cause.ENDED: 410,
    Cause.RESET: 410,
    Cause.NOT_ON_THIS_NODE: 421,
    Cause.FAILED: 500,
    Cause.REFUSED: 502,
    Cause.UNRESOLVABLE: 502,
    Cause.UNREACHABLE: 502,
    Cause.NO_ROOM: 503,
    Cause.TIMED_OUT: 504,
}
"""HTTP status for each cause that travels."""

_CAUSE_OF_STATUS = {
    403: Cause.NOT_ALLOWED,
    410: Cause.GONE,
    421: Cause.NOT_ON_THIS_NODE,
    502: Cause.UNREACHABLE,
    503: Cause.NO_ROOM,
    504: Cause.TIMED_OUT,
}

MAX_DETAIL = 200
"""Longest `tunnel-detail`, in bytes."""


def read_cause(name: str | None, status: int) -> Cause:
    """The cause that a refusal names; one that this version does not know is read by its status."""
    if name is not None:
        for cause in STATUS_OF_CAUSE:
            if cause.value == name:
                return cause
    return _CAUSE_OF_STATUS.get(status, Cause.FAILED)


def clean_detail(text: str) -> str:
    """`text` as it may stand in a header: printable ASCII, bounded."""
    printable = "".join(c if " " <= c <= "~" else "?" for c in text)
    return printable[:MAX_DETAIL].strip()


class OpenFailed(Exception):
    """A stream could not be opened: `cause` for programs, `detail` for people."""

    def __init__(self, cause: Cause, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else str(cause))
        self.cause = cause
        self.detail = detail
