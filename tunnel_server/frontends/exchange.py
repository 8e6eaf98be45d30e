"""One HTTP/1.1 request and its response, between a caller's connection and a stream to an edge.

Both directions run at once and are streamed: a body has no limit and no deadline. Message boundaries are
h11's; headers keep their spelling and order. An upgrade that the edge accepts is spliced from there on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11
import trio

from tunnel_daemon.malformed import what_is_malformed
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.splice import End, SpliceResult

if TYPE_CHECKING:
    from tunnel_wire.stream import TunnelStream

MAX_HEAD = 64 * 1024
"""Bytes of a head, of the request's and of the response's."""
_READ = 64 * 1024
_PIPELINED = 64 * 1024
"""Bytes of further requests that are read while one is served."""
_CLOSED = "it closed the connection before the end of its answer"


class CallerLeft(Exception):
    """The caller's connection broke, or said what is no HTTP, after its response had begun."""


class Cut(Exception):
    """The response broke off: the caller must not take it for complete."""


class BadRequest(Exception):
    """The request's body is malformed, and nothing has been answered yet."""


class Exchange:
    """`caller` has just delivered `request`; its body, if any, is still to be read."""

    def __init__(
        self,
        caller: trio.SocketStream,
        parser: h11.Connection,
        request: h11.Request,
        edge: TunnelStream,
        result: SpliceResult,
    ) -> None:
        self._caller = caller
        self._server = parser
        self._request = request
        self._edge = edge
        self._client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._result = result
        self._upgrading = any(name == b"upgrade" for name, _ in request.headers)
        self._answering = False
        """The response's head is on its way."""
        self._sent_whole = False
        """The edge has the end of the request."""
        self._failure: Exception | None = None

    async def run(self) -> bool:
        """Carry both. True when the edge has switched protocols: `take_over` tells what was read too far.

        Raises OpenFailed if the edge fails before it answers, BadRequest, Cut, CallerLeft. Only when it
        returns false is the edge's stream done with, and closed.
        """
        switched = False
        head = self._client.send(self._request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._upload, head, nursery.cancel_scope)
            try:
                switched = await self._download()
            except (OpenFailed, Cut, CallerLeft) as exc:
                self._failure = self._failure or exc
            nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure
        if not switched:
            self._result.end = End.FINISHED
            if self._sent_whole:
                self._edge.close()
            else:
                self._edge.reset()  # what there is of the body must not look complete
        return switched

    def take_over(self) -> tuple[bytes, bytes]:
        """What the caller and what the edge have sent beyond their last HTTP message."""
        return self._server.trailing_data[0], self._client.trailing_data[0]

    # --- the request ------------------------------------------------------------------------------

    async def _upload(self, head: bytes | None, scope: trio.CancelScope) -> None:
        try:
            await self._send_edge(head)
            await self._send_body()
            await self._watch_for_end()
        except h11.RemoteProtocolError as exc:
            text = f"malformed request: {what_is_malformed(exc)}"
            self._failure = CallerLeft(text) if self._answering else BadRequest(text)
            scope.cancel()
        except trio.BrokenResourceError:
            self._failure = CallerLeft("the caller's connection broke")
            scope.cancel()

    async def _send_body(self) -> None:
        while True:
            event = self._server.next_event()
            if event is h11.NEED_DATA:
                self._server.receive_data(bytes(await self._caller.receive_some(_READ)))
            elif isinstance(event, h11.Data | h11.EndOfMessage):
                await self._send_edge(self._client.send(event))
                if isinstance(event, h11.EndOfMessage):
                    self._sent_whole = True
                    return
            else:
                return

    async def _watch_for_end(self) -> None:
        """The caller may end its direction, and the edge then learns it; or send what comes next."""
        while len(self._server.trailing_data[0]) < _PIPELINED:
            data = bytes(await self._caller.receive_some(_READ))
            self._server.receive_data(data)
            if not data:
                if not self._upgrading:  # else it is passed on once it is known what was agreed
                    await self._edge.send_eof()
                return

    async def _send_edge(self, data: bytes | None) -> None:
        """An edge that takes no more may have answered all the same: its answer decides."""
        if not data:
            return
        try:
            await self._edge.send_all(data)
        except trio.BrokenResourceError:
            await trio.sleep_forever()
        self._result.to_tunnel += len(data)

    # --- the response -----------------------------------------------------------------------------

    async def _download(self) -> bool:
        ended = False
        while True:
            try:
                event = self._client.next_event()
                if event is h11.NEED_DATA:
                    data = await self._edge.receive_some(_READ)
                    self._result.from_tunnel += len(data)
                    ended = not data
                    self._client.receive_data(bytes(data))
                    continue
            except h11.RemoteProtocolError as exc:
                why = _CLOSED if ended else f"its answer is no HTTP/1.1: {what_is_malformed(exc)}"
                raise self._edge_failed(why) from None
            except trio.BrokenResourceError as exc:
                raise self._edge_failed(str(exc)) from None
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    await self._send_caller(_as_1_1(event))
                    return True
                if self._server.their_http_version != b"1.0":
                    await self._send_caller(_as_1_1(event))
            elif isinstance(event, h11.Response):
                self._check(event)
                self._answering = True
                await self._send_caller(_as_1_1(event))
            elif isinstance(event, h11.Data):
                await self._send_caller(h11.Data(data=event.data))
            elif isinstance(event, h11.EndOfMessage):
                await self._send_caller(event)
                return False
            else:
                raise self._edge_failed(_CLOSED)

    def _check(self, response: h11.Response) -> None:
        names = {name for name, _ in response.headers}
        if {b"content-length", b"transfer-encoding"} <= names:
            raise self._edge_failed("its answer has both Content-Length and Transfer-Encoding")

    async def _send_caller(self, event: h11.Event) -> None:
        try:
            data = self._server.send(event)
        except h11.LocalProtocolError as exc:
            raise self._edge_failed(f"its answer does not fit the request: {exc}") from None
        if data:
            try:
                await self._caller.send_all(data)
            except trio.BrokenResourceError:
                raise CallerLeft("the caller's connection broke") from None

    def _edge_failed(self, why: str) -> OpenFailed | Cut:
        if self._answering:
            self._result.end = End.REMOTE_RESET
            return Cut(why)
        return OpenFailed(Cause.FAILED, f"the edge's service: {why}")


def _as_1_1(event: h11.Response | h11.InformationalResponse) -> h11.Event:
    """The same from us: h11 sends HTTP/1.1 only, framed as the caller's version needs it."""
    return type(event)(
        status_code=event.status_code, headers=event.headers.raw_items(), reason=bytes(event.reason)
    )
