"""The admin API's routes, and who may use them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from certs.files import StateError
from tunnel_daemon.failure_log import FailureLog
from tunnel_daemon.http1 import Handler, HttpError, Request, Response
from tunnel_daemon.router import Router
from tunnel_server.admin.diagnosis_api import DiagnosisApi, read_port
from tunnel_server.admin.unix_socket import Credentials, SocketUsers
from tunnel_server.admin.views import ForgottenView, Mappings, MappingView, NodeView, StatusView, to_json

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tunnel_server.admin.diagnosis_views import Doctor

log = logging.getLogger(__name__)
_REFUSED_EVERY = 60.0
"""Seconds at least between two lines about the same user who may not use the socket."""


@dataclass(frozen=True, kw_only=True)
class AdminSources:
    """Where the core's facts come from, and how it is told of a change."""

    nodes: Callable[[], Sequence[NodeView]]
    status: Callable[[], StatusView]
    mappings: Mappings
    mapping_views: Callable[[], Sequence[MappingView]]
    changed: Callable[[], Awaitable[None]]
    """Put changed mappings into effect; returns when they are."""
    default_listener_port: int
    """Where a mapping goes that names no listener: insecure-port."""
    doctor: Doctor | None = None
    """Without one, nothing can be diagnosed."""
    forget: Callable[[str], Awaitable[ForgottenView]] | None = None
    """Know no more of a node. Raises LookupError if none has this name, ValueError if it is linked, and
    StateError, in words for the operator. Without it, none can be forgotten.
    """


class AdminApi:
    """A `Handler` for connections whose ``request.peer`` is their `Credentials`."""

    def __init__(self, sources: AdminSources, users: SocketUsers | None = None) -> None:
        self._sources = sources
        self._users = users or SocketUsers()
        self._changing = trio.Lock()
        self._refusals = FailureLog(log, longest=_REFUSED_EVERY)
        routes: dict[tuple[str, str], Handler] = {
            ("GET", "/v1/nodes"): self._nodes,
            ("GET", "/v1/status"): self._status,
            ("GET", "/v1/mappings"): self._mappings,
            ("POST", "/v1/mappings"): self._add,
            ("DELETE", "/v1/mappings/*"): self._remove,
        }
        if sources.doctor is not None:
            diagnosis = DiagnosisApi(sources.doctor)
            routes["GET", "/v1/diagnosis/*"] = diagnosis.diagnose
            routes["POST", "/v1/probe"] = diagnosis.probe
        if sources.forget is not None:
            routes["DELETE", "/v1/nodes/*"] = partial(_forget, sources.forget)
        self._router = Router(routes)

    async def __call__(self, request: Request) -> Response:
        """Answer root, the server's own user and the configured ones; 403 for the rest."""
        self.check(request.peer)  # again: the users may have changed since it connected
        return await self._router(request)

    def check(self, peer: object) -> None:
        """Raise HttpError 403 unless `peer` is the `Credentials` of somebody who may use the API."""
        if isinstance(peer, Credentials) and peer.uid in self._users:
            return
        who = f"uid {peer.uid}" if isinstance(peer, Credentials) else "an unknown peer"
        text = f"{who} may not use the admin socket: run as root, or add the uid to admin-uids"
        self._refusals.failed(who, text)
        raise HttpError(403, text)

    async def _nodes(self, _request: Request) -> Response:
        return Response.json({"nodes": [to_json(node) for node in self._sources.nodes()]})

    async def _status(self, _request: Request) -> Response:
        return Response.json(to_json(self._sources.status()))

    async def _mappings(self, _request: Request) -> Response:
        return Response.json({"mappings": self._listed()})

    async def _add(self, request: Request) -> Response:
        body = request.json()
        if not isinstance(body, dict) or not body.keys() <= {"port", "listener_port"}:
            raise HttpError(400, 'expected {"port": 9081, "listener_port": 10264}')
        port = read_port(body.get("port"), "port")
        target = read_port(body.get("listener_port", self._sources.default_listener_port), "listener_port")
        return await self._change(lambda: self._sources.mappings.add(port, target))

    async def _remove(self, request: Request) -> Response:
        text = request.parameter
        port = read_port(int(text) if text.isascii() and text.isdigit() and len(text) < 6 else text, "port")
        return await self._change(lambda: self._sources.mappings.remove(port))

    async def _change(self, change: Callable[[], object]) -> Response:
        # One after another: two changes in flight could otherwise take effect in the wrong order.
        # Shielded: a client that leaves must not leave half a change.
        async with self._changing:
            with trio.CancelScope(shield=True):
                before = self._listed()
                try:
                    await trio.to_thread.run_sync(change)
                except ValueError as error:
                    raise HttpError(409, str(error)) from None
                except StateError as error:
                    raise HttpError(500, str(error)) from None
                after = self._listed()
                if after != before:
                    await self._sources.changed()
            if after != before:
                log.info(
                    "port mappings changed", extra={"ports": " ".join(str(each["port"]) for each in after)}
                )
            return Response.json({"changed": after != before, "mappings": after})

    def _listed(self) -> list[dict[str, object]]:
        return [to_json(view) for view in self._sources.mapping_views()]


async def _forget(forget: Callable[[str], Awaitable[ForgottenView]], request: Request) -> Response:
    try:
        return Response.json(to_json(await forget(request.parameter)))
    except LookupError as error:
        raise HttpError(404, str(error)) from None
    except ValueError as error:
        raise HttpError(409, str(error)) from None
    except StateError as error:
        raise HttpError(500, str(error)) from None
