"""What the server tells of itself on the meta port: /healthz, /readyz, /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunnel_daemon.http1 import Request, Response
from tunnel_daemon.router import Router
from tunnel_server.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tunnel_server.metrics import Metrics


def meta_router(
    metrics: Metrics,
    checks: Callable[[], Mapping[str, str | None]],
    notes: Callable[[], Mapping[str, str]] = dict,
) -> Router:
    """Return the handler for the meta port.

    `checks` maps each part that must work to None, or to what is wrong with it. /healthz says
    200 as long as the event loop answers at all; /readyz is 503 while a part is not ready. `notes` has what
    an operator should know besides: what is served goes on being served.
    """

    async def healthz(_request: Request) -> Response:
        return Response.text("ok\n")

    async def readyz(_request: Request) -> Response:
        found = checks()
        ready = all(problem is None for problem in found.values())
        detail = {name: problem or "ok" for name, problem in found.items()}
        document = {"ready": ready, "checks": detail, "notes": dict(notes())}
        return Response.json(document, 200 if ready else 503)

    async def render(_request: Request) -> Response:
        return Response(200, metrics.render(), CONTENT_TYPE)

    return Router({("GET", "/healthz"): healthz, ("GET", "/readyz"): readyz, ("GET", "/metrics"): render})
