"""What the agent says of itself over HTTP. Loaded with the first request, as all of HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tunnel_agent.tls_errors import clock_text
from tunnel_daemon.http1 import Request, Response
from tunnel_daemon.router import Router
from tunnel_wire.build import build

if TYPE_CHECKING:
    from tunnel_agent.status import AgentStatus


class Health:
    """Answers /healthz, /readyz and /status from an AgentStatus."""

    def __init__(self, status: AgentStatus) -> None:
        self._status = status
        self.router = Router(
            {
                ("GET", "/healthz"): self._live,
                ("GET", "/readyz"): self._ready,
                ("GET", "/status"): self._details,
            }
        )

    async def _live(self, _request: Request) -> Response:
        # That the event loop answers is the whole check: an agent whose server is away is well.
        return Response.text("ok\n")

    async def _ready(self, _request: Request) -> Response:
        status = self._status
        if status.linked_since is not None:
            return Response.text(f"linked to {status.server} since {clock_text(status.linked_since)}\n")
        return Response.text(f"not linked: {status.last_failure or 'connecting'}\n", status=503)

    async def _details(self, _request: Request) -> Response:
        status = self._status
        waiting = status.waiting()
        return Response.json(
            {
                "version": status.version,
                "build": build(),
                "node": status.node,
                "started": _moment(status.started),
                "linked": status.linked_since is not None,
                "server": status.server or None,
                "linked_since": _moment(status.linked_since),
                "links": status.links,
                "last_failure": status.last_failure or None,
                "last_failure_at": _moment(status.last_failure_at),
                "dialling": status.dialling,
                "streams": status.streams,
                "suspended": waiting.streams,
                "suspended_pooled": waiting.pooled,
                "waits_for": waiting.server or None,
                "names": status.names(),
                "lookups": status.lookups(),
                "tasks": trio.lowlevel.current_statistics().tasks_living,
                "opened": status.opened,
                "refused": dict(status.refused),
            }
        )


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else clock_text(seconds)
