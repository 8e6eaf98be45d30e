"""A small HTTP/1.1 server over any ``trio.abc.Stream`` (RFC 9112, parsed by h11).

Owns the life of one connection: reading bounded requests, calling a handler, writing
bounded responses, and refusing what is malformed. Which path means what is the
handler's business (`tunnel_daemon.router`), and accepting is the caller's
(`tunnel_daemon.http_service`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

from tunnel_daemon.crowd import Use
from tunnel_daemon.malformed import NO_HTTP_2, what_is_malformed

if TYPE_CHECKING:
    from trio.abc import Stream

    from tunnel_daemon.crowd import Guest

log = logging.getLogger(__name__)

HEADER_READ = 4096  # small reads while a header block is incomplete keep h11's own bound tight
BODY_READ = 65536
BODILESS = frozenset({204, 304})
DATE = "%a, %d %b %Y %H:%M:%S GMT"  # in English: no program of ours calls locale.setlocale


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of one connection; sizes in bytes, times in seconds."""

    header_bytes: int = 16384
    body_bytes: int = 65536
    header_deadline: float = 10.0
    """From the first byte of a request (of the connection, for the first) to the end of its headers."""
    request_deadline: float = 30.0
    """From the end of the headers until the whole response is sent."""
    idle_deadline: float = 30.0
    requests: int = 1000
    linger: float = 1.0
    """How long a refused request is still read, so that the peer sees the refusal and not a reset."""
    close_deadline: float = 2.0


class HttpError(Exception):
    """What a handler raises to answer ``{"error": message}`` with this status. The message is sent."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Request:
    """One request, read whole. Header names are lower case; repeated headers are joined by ", "."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    peer: object = None
    """Whatever the accepting side passed to `serve_connection`: an address, a certificate, credentials."""
    parameter: str = ""
    """The trailing path segment, where the route has one."""

    def json(self) -> object:
        """Return the body as JSON; raises HttpError 400."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise HttpError(400, "the request body is not JSON") from None


@dataclass(frozen=True, slots=True)
class Response:
    """One response, sent whole with its content-length."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/octet-stream"
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, obj: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """Return `obj` as a JSON document with a newline behind it."""
        body = json.dumps(obj, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        return cls(status, body, "application/json", headers or {})

    @classmethod
    def text(cls, text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """Return plain UTF-8 text."""
        return cls(status, text.encode(), "text/plain; charset=utf-8", headers or {})

    @classmethod
    def error(cls, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        """Return the one shape every error of ours has."""
        return cls.json({"error": message}, status, headers)


Handler = Callable[[Request], Awaitable[Response]]


async def serve_connection(
    stream: Stream,
    handler: Handler,
    *,
    peer: object = None,
    limits: HttpLimits | None = None,
    head_by: float | None = None,
    guest: Guest | None = None,
) -> None:
    """Serve requests on `stream`, one after another, until either side has had enough; closes it.

    The first head has until `head_by`, in trio's time, if that is given. `guest` is the place that the
    connection takes: it learns what it is used for.
    A peer that vanishes, is silent, or speaks nonsense ends the call; it is not an error.
    An exception of the handler is logged and answered by a 500 that says nothing of it.
    Cancelling it closes the stream at once; a response may then be cut short.
    """
    connection = _Connection(stream, handler, peer, limits or HttpLimits(), head_by)
    if guest is not None:
        guest.use = connection.use
    try:
        await connection.serve()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        log.debug("the peer went away")
    except h11.LocalProtocolError:
        log.exception("a handler's response can't be sent")
    finally:
        # TLS's aclose waits for a peer that may never read: aclose is forceful once cancelled.
        with trio.move_on_after(connection.limits.close_deadline) as scope:
            scope.shield = True
            await stream.aclose()


async def refuse_connection(stream: Stream, error: HttpError) -> None:
    """Answer `error` to whoever has not been asked what it wants, and let it read that; does not close."""

    async def unasked(_: Request) -> Response:
        raise error

    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await _Connection(stream, unasked, None, HttpLimits()).refuse(error)


class _EndedError(Exception):
    """The peer has closed, or said nothing for too long."""


class _Connection:
    def __init__(
        self,
        stream: Stream,
        handler: Handler,
        peer: object,
        limits: HttpLimits,
        head_by: float | None = None,
    ) -> None:
        self.stream = stream
        self.handler = handler
        self.peer = peer
        self.limits = limits
        self.head_by = head_by
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.header_bytes)
        self.method = ""

    def use(self) -> Use:
        """What the connection's place is used for now."""
        if self.h11.their_state is h11.DONE and self.h11.our_state is h11.SEND_RESPONSE:
            return Use.SERVED
        silent = self.h11.their_state is h11.IDLE and not self.h11.trailing_data[0]
        return Use.SILENT if silent else Use.TALKING

    async def serve(self) -> None:
        for count in range(1, self.limits.requests + 1):
            try:
                response = await self.one_request(first=count == 1)
            except _EndedError:
                return
            except h11.RemoteProtocolError as error:
                status = error.error_status_hint
                await self.refuse(HttpError(status, f"malformed request: {what_is_malformed(error)}"))
                return
            except HttpError as error:
                await self.refuse(error)
                return
            keep = count < self.limits.requests
            with trio.move_on_after(self.limits.request_deadline) as scope:
                await self.send(response, keep=keep)
            if scope.cancelled_caught or not keep or self.h11.our_state is not h11.DONE:
                return
            if self.h11.their_state is not h11.DONE:
                return
            self.h11.start_next_cycle()

    async def one_request(self, *, first: bool) -> Response:
        """Read one request and return what the handler answers; HttpError if it can't be read."""
        head = await self.read_head(first=first)
        self.method = head.method.decode("ascii")
        if head.http_version > b"1.1":
            raise HttpError(400, NO_HTTP_2)
        with trio.move_on_after(self.limits.request_deadline):
            body = await self.read_body(head)
            return await self.call(_request(head, body, self.peer))
        if self.h11.their_state is h11.DONE:
            log.warning("a request took too long", extra={"method": self.method})
            raise HttpError(503, "the request took too long")
        raise HttpError(408, "the request body did not arrive in time")

    async def read_head(self, *, first: bool) -> h11.Request:
        if not first and not self.h11.trailing_data[0]:
            with trio.move_on_after(self.limits.idle_deadline) as idle:
                await self.receive(HEADER_READ)
            if idle.cancelled_caught:
                raise _EndedError
        head_by = trio.current_time() + self.limits.header_deadline
        if first and self.head_by is not None:
            head_by = self.head_by
        with trio.move_on_at(head_by):
            while True:
                event = self.h11.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:  # ConnectionClosed, or PAUSED, which a fresh cycle has not
                    raise _EndedError
                await self.receive(HEADER_READ)
        if not self.h11.trailing_data[0]:
            raise _EndedError  # an idle connection needs no answer
        raise HttpError(408, "the request headers did not arrive in time")

    async def read_body(self, head: h11.Request) -> bytes:
        declared = next((value for name, value in head.headers if name == b"content-length"), b"0")
        if int(declared) > self.limits.body_bytes:
            raise HttpError(413, f"the request body is over {self.limits.body_bytes} bytes")
        body = bytearray()
        while True:
            event = self.h11.next_event()
            if isinstance(event, h11.Data):
                body += event.data
                if len(body) > self.limits.body_bytes:
                    raise HttpError(413, f"the request body is over {self.limits.body_bytes} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return bytes(body)
            elif event is h11.NEED_DATA:
                if self.h11.they_are_waiting_for_100_continue:
                    await self.write(h11.InformationalResponse(status_code=100, headers=[]))
                await self.receive(BODY_READ)
            else:
                raise _EndedError

    async def receive(self, size: int) -> None:
        self.h11.receive_data(bytes(await self.stream.receive_some(size)))

    async def call(self, request: Request) -> Response:
        try:
            response = await self.handler(request)
        except HttpError as error:
            return Response.error(error.status, str(error), error.headers)
        except Exception:
            log.exception("a request failed", extra={"method": request.method, "path": request.path})
            return Response.error(500, "internal error; the cause is in the log")
        log.debug("%s %s: %d", request.method, request.path, response.status)
        return response

    async def send(self, response: Response, *, keep: bool) -> None:
        headers = [("date", time.strftime(DATE, time.gmtime())), *response.headers.items()]
        if response.status not in BODILESS:
            headers += [("content-type", response.content_type), ("content-length", str(len(response.body)))]
        if not keep:
            headers.append(("connection", "close"))
        try:
            reason = HTTPStatus(response.status).phrase
        except ValueError:
            reason = ""
        head = h11.Response(status_code=response.status, headers=headers, reason=reason.encode())
        body = b"" if self.method == "HEAD" or response.status in BODILESS else response.body
        await self.write(head, h11.Data(data=body), h11.EndOfMessage())

    async def write(self, *events: h11.Event) -> None:
        await self.stream.send_all(b"".join(self.h11.send(event) or b"" for event in events))

    async def refuse(self, error: HttpError) -> None:
        """Answer what could not be read as a request, and close.

        Closing a socket with unread input resets it, and the reset overtakes the answer: so
        what the peer still sends is read and dropped, for a moment.
        """
        if self.h11.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        with trio.move_on_after(self.limits.request_deadline) as scope:
            await self.send(Response.error(error.status, str(error), error.headers), keep=False)
        if scope.cancelled_caught:
            return
        with trio.move_on_after(self.limits.linger):
            if isinstance(self.stream, trio.abc.HalfCloseableStream):
                await self.stream.send_eof()
            while await self.stream.receive_some(BODY_READ):
                pass


def _request(head: h11.Request, body: bytes, peer: object) -> Request:
    path, query = _split_target(head.target.decode("ascii"))
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(head.method.decode("ascii"), path, query, headers, body, peer)


def _split_target(target: str) -> tuple[str, dict[str, str]]:
    """Return the decoded path and the query of an origin-form or absolute-form target (RFC 9112, 3.2)."""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            raise HttpError(400, "malformed request target") from None
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise HttpError(400, "malformed request target")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    raw_path, _, raw_query = target.partition("?")
    try:
        path = unquote(raw_path, errors="strict")
        query = dict(parse_qsl(raw_query, keep_blank_values=True, errors="strict", max_num_fields=64))
    except ValueError:
        raise HttpError(400, "malformed request target") from None
    return path, query
