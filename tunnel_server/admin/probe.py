"""A real try: has a node's agent dial a target, and tells what came of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_server.admin.diagnosis_views import ProbeView
from tunnel_wire.causes import Cause, OpenFailed

if TYPE_CHECKING:
    from tunnel_server.registry import Registry

log = logging.getLogger(__name__)


async def probe(registry: Registry, name: str, host: str, port: int, timeout: float) -> ProbeView:
    """Have the agent of node `name` dial `host`:`port` within `timeout` seconds, and hang up at once.

    The target sees a connection that is opened and reset. Cancelled, the dial is given up too.
    """
    began = trio.current_time()
    cause: Cause | None = None
    detail = ""
    try:
        with trio.move_on_after(timeout) as scope:
            agent = registry.by_name(name).agent
            if agent is None:
                raise OpenFailed(Cause.AWAY, f"{name} is not connected")
            stream = await agent.open(host, port)
            stream.reset()
        if scope.cancelled_caught:
            raise OpenFailed(Cause.TIMED_OUT, f"no answer from the agent within {timeout:g} s")
    except OpenFailed as failure:
        cause, detail = failure.cause, failure.detail
    elapsed = round((trio.current_time() - began) * 1000, 1)
    log.info(
        "probed", extra={"node": name, "target_host": host, "target_port": port, "cause": cause or "none"}
    )
    return ProbeView(host=host, port=port, ok=cause is None, cause=cause, detail=detail, ms=elapsed)
