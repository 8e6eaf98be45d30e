"""Which handler answers which method and path; 404 and 405 for the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tunnel_daemon.http1 import Handler, Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping


class Router:
    """A `Handler` made of handlers.

    Routes are exact paths, or end in ``/*``: then the last, non-empty segment is handed over as
    ``request.parameter``. GET answers HEAD too.
    """

    def __init__(self, routes: Mapping[tuple[str, str], Handler]) -> None:
        """Take ``{("GET", "/v1/ca"): handler, ("DELETE", "/v1/mappings/*"): handler}``."""
        self._paths: dict[str, dict[str, Handler]] = {}
        for (method, path), handler in routes.items():
            self._paths.setdefault(path, {})[method] = handler

    async def __call__(self, request: Request) -> Response:
        """Answer with the route's handler, or 404, or 405 with what is allowed."""
        parent, _, last = request.path.rpartition("/")
        methods = self._paths.get(request.path)
        parameter = ""
        if methods is None and last:
            methods, parameter = self._paths.get(f"{parent}/*"), last
        if methods is None:
            return Response.error(404, f"nothing is at {request.path}")
        method = "GET" if request.method == "HEAD" and "HEAD" not in methods else request.method
        handler = methods.get(method)
        if handler is None:
            allowed = ", ".join(sorted(methods))
            message = f"{request.method} is not allowed at {request.path}; allowed: {allowed}"
            return Response.error(405, message, {"allow": allowed})
        return await handler(replace(request, parameter=parameter))
