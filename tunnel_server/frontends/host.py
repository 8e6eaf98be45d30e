"""Edges by name over plain HTTP: direct connections to `insecure-port`, routed by each request's Host.

HTTP/1.1 and 1.0. Requests on one connection may go to different edges; each has a stream of its own. As deep
as needed, and no deeper: see `exchange`.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import h11
import trio

from certs.addresses import format_endpoint
from tunnel_daemon.malformed import what_is_malformed
from tunnel_server.asked import Asked
from tunnel_server.frontends.destination import read_destination
from tunnel_server.frontends.exchange import MAX_HEAD, BadRequest, CallerLeft, Cut, Exchange
from tunnel_server.frontends.refusals import refusal, refusal_of
from tunnel_wire.causes import OpenFailed
from tunnel_wire.failures import forget, watch
from tunnel_wire.sockets import close_with_reset
from tunnel_wire.splice import End, splice
from tunnel_wire.stream import TunnelStream

if TYPE_CHECKING:
    import socket

    from tunnel_server.calls import Call, Calls
    from tunnel_server.frontends.naming import Find

log = logging.getLogger(__name__)

FRONTEND = "host"

_HEAD_TIME = 10.0
"""Seconds from a request's first byte (of the connection, for the first) to the end of its head."""
_IDLE_TIME = 75.0
"""Seconds between two requests."""
_ANSWER_TIME = 10.0
"""Seconds that a refused caller gets to take the answer."""
_LINGER = 1.0
"""Seconds that what a refused caller still sends is read, so that it sees the answer and not a reset."""
_READ = 4096


class HostFrontend:
    """Serves direct connections to `insecure-port`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._open = 0

    async def serve(self, sock: socket.socket, caller: str, find: Find) -> None:
        """Serve one connection to its end, and close it."""
        if self._open >= self._calls.limit:
            log.warning("a caller was turned away: %d connections are open", self._open)
            close_with_reset(sock)
            return
        self._open += 1
        try:
            await _Connection(sock, caller, find, self._calls).serve()
        finally:
            self._open -= 1
            if sock.fileno() >= 0:
                close_with_reset(sock)


class _Connection:
    def __init__(self, sock: socket.socket, caller: str, find: Find, calls: Calls) -> None:
        self._sock = sock
        self._caller = caller
        self._find = find
        self._calls = calls
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._parser = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._method = b""
        self._gone = False
        """The caller has reset the connection."""

    async def serve(self) -> None:
        """Leaves the socket open where it must be reset."""
        # A reset is felt also while nobody reads: the edge need not work for a caller that has gone.
        finished = False
        with trio.CancelScope() as life:

            def leave() -> None:
                self._gone = True
                life.cancel()

            watch(self._sock, leave)
            try:
                first = True
                while await self._request(first=first):
                    self._parser.start_next_cycle()
                    first = False
                finished = True
            except (CallerLeft, Cut, trio.BrokenResourceError) as exc:
                log.debug("a caller's connection is reset: %s", exc, extra={"caller": self._caller})
            finally:
                if self._sock.fileno() >= 0:
                    forget(self._sock)
        if finished and self._sock.fileno() >= 0:
            await self._close()

    async def _request(self, *, first: bool) -> bool:
        """Serve one request; whether another may follow."""
        try:
            head = await self._read_head(first=first)
            if head is None:
                return False
            self._method = head.method
            host, port, request = read_destination(head)
        except h11.RemoteProtocolError as exc:
            text = f"malformed request: {what_is_malformed(exc)}"
            return await self._refuse(*refusal(exc.error_status_hint, text))
        except trio.TooSlowError:
            return await self._refuse(*refusal(408, f"no whole request within {_HEAD_TIME:g} s"))
        except ValueError as exc:
            return await self._refuse(*refusal(400, str(exc)))
        asked = Asked(FRONTEND, self._caller, format_endpoint(host, port))
        try:
            async with self._calls.place(asked, lambda: self._find(host, port)) as call:
                return await self._exchange(request, call)
        except OpenFailed as failed:
            return await self._refuse(*refusal_of(failed, close=not self._read_whole()))
        except BadRequest as exc:
            return await self._refuse(*refusal(400, str(exc)))

    async def _read_head(self, *, first: bool) -> h11.Request | None:
        """None if the caller has no more to ask. Raises h11.RemoteProtocolError, TooSlowError."""
        if not first and not self._parser.trailing_data[0]:
            data = b""
            with trio.move_on_after(_IDLE_TIME):
                data = bytes(await self._stream.receive_some(_READ))
            self._parser.receive_data(data)
        with trio.fail_after(_HEAD_TIME):
            while True:
                event = self._parser.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                self._parser.receive_data(bytes(await self._stream.receive_some(_READ)))

    async def _exchange(self, request: h11.Request, call: Call) -> bool:
        edge, result = call.far, call.result
        assert isinstance(edge, TunnelStream)
        exchange = Exchange(self._stream, self._parser, request, edge, result)
        try:
            switched = await exchange.run()
        except (CallerLeft, BadRequest):
            result.end = End.LOCAL_RESET
            edge.reset()
            raise
        except (Cut, OpenFailed):
            result.end = End.REMOTE_RESET
            edge.reset()
            raise
        finally:
            if self._gone and result.end is End.CANCELLED:
                result.end = End.LOCAL_RESET
                edge.reset()
        if not switched:
            return self._reusable()
        from_caller, from_edge = exchange.take_over()
        await self._stream.send_all(from_edge)
        await edge.send_all(from_caller)
        result.to_tunnel += len(from_caller)
        forget(self._sock)
        await splice(edge, self._sock, result)
        return False

    def _read_whole(self) -> bool:
        """Whether the refused request has no body still to come, so that another may follow it."""
        if self._parser.their_state is not h11.SEND_BODY:
            return True
        try:
            return isinstance(self._parser.next_event(), h11.EndOfMessage)
        except h11.RemoteProtocolError:
            return False

    def _reusable(self) -> bool:
        done = self._parser.our_state is h11.DONE and self._parser.their_state is h11.DONE
        return done and not self._calls.closed

    async def _refuse(self, response: h11.Response, body: bytes) -> bool:
        """Answer by ourselves; whether another request may follow."""
        parser = self._parser
        if parser.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            raise CallerLeft("refused after its answer had begun")
        data = parser.send(response) or b""
        data += parser.send(h11.Data(data=b"" if self._method == b"HEAD" else body)) or b""
        data += parser.send(h11.EndOfMessage()) or b""
        with trio.move_on_after(_ANSWER_TIME):
            await self._stream.send_all(data)
            return self._reusable()
        raise CallerLeft("refused, it does not read its answer")

    async def _close(self) -> None:
        """Close so that what was sent arrives: unread input would turn it into a reset."""
        with trio.move_on_after(_LINGER), contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            while await self._stream.receive_some(_READ):
                pass
        await self._stream.aclose()
