"""How a call that fails is told to a caller who speaks HTTP: a status, and the cause in words."""

from __future__ import annotations

import json

import h11

from tunnel_wire.causes import Cause, OpenFailed, clean_detail

_STATUS = {
    Cause.NO_SUCH_NODE: 400,  # as yurt-tunnel answers for a host that is no node
    Cause.ADDRESS_SHARED: 400,
    Cause.NOT_ALLOWED: 403,
    Cause.AWAY: 503,
    Cause.NO_ROOM: 503,
    Cause.TIMED_OUT: 504,
}


def status_of(cause: Cause) -> int:
    """The HTTP status that tells `cause`; 502 for whatever went wrong behind us."""
    return _STATUS.get(cause, 502)


def refusal(
    status: int, text: str, *, cause: str = "", reason: str = "", close: bool = True
) -> tuple[h11.Response, bytes]:
    """A response with the cause in its reason phrase, in a header of ours, and as JSON in its body."""
    document = {"error": text, "cause": cause} if cause else {"error": text}
    body = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    if cause:
        headers.append(("Tunnel-Cause", cause))
    if close:
        headers.append(("Connection", "close"))
    phrase = clean_detail(reason or text).encode("ascii")
    return h11.Response(status_code=status, headers=headers, reason=phrase), body


def refusal_of(failed: OpenFailed, *, close: bool = True) -> tuple[h11.Response, bytes]:
    """The same for a call that did not come about."""
    text = failed.detail or str(failed.cause)
    return refusal(status_of(failed.cause), text, cause=failed.cause.value, reason=str(failed), close=close)
