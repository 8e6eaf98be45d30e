"""Which server process a session is with, and when another one may take its place.

Streams can be resumed by the process that they began at, and by no other. So with several servers configured,
the first one that happens to answer after a cut must not be taken: that would end every stream that waits.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tunnel_agent.endpoint import Endpoint
    from tunnel_wire.session import Session


log = logging.getLogger(__name__)


class Home:
    """The server that a session is with, if it is with one."""

    def __init__(
        self, session: Session, is_linked: Callable[[], bool], *, failover_delay: float = 30.0
    ) -> None:
        """Take `is_linked`: whether some link of the session stands."""
        self.failover_delay = failover_delay
        """Seconds for which streams wait for their server while another one answers.

        While that one answers, it is not our uplink that is down, but their server, or the way to it. A
        switch that starts again or a machine that moves is back within that; a machine that has died is not,
        and then its node is away for all new calls. While nobody answers, nothing is lost by waiting, and no
        time counts. May be changed at any time.
        """
        self.server: Endpoint | None = None
        self._session = session
        self._is_linked = is_linked
        self._elsewhere = math.inf
        """When another server first answered, while streams waited for this one."""

    def order(self, servers: Sequence[Endpoint]) -> list[Endpoint]:
        """Whom to dial, in this order: beside a link that stands its server alone."""
        home = self.server
        if home is None or home not in servers:
            # Not the operator's wish any more: nothing waits for it.
            self.server = None
        elif self._is_linked():
            return [home]
        elif self._session.suspended.awaited():
            return [home, *(server for server in servers if server != home)]
        return list(servers)

    def excludes(self, server: Endpoint) -> bool:
        """Whether a link that stands leads to another one."""
        return self.server not in (None, server) and self._is_linked()

    @property
    def is_awaited(self) -> bool:
        """Whether to try no other server for now: one has answered, and this one may still come back.

        Not for streams that it would not have any more then: kube-apiserver's one connection for all its
        requests, which is hardly ever closed, would otherwise keep the node away for each of them.
        """
        until = min(self._elsewhere + self.failover_delay, self._session.suspended.kept_until())
        return self._elsewhere < math.inf and trio.current_time() < until

    def admits(self, server: Endpoint, instance: str) -> bool:
        """Whether to be linked to the process that has just said hello at `server`.

        If so, the session is with that one from now on: others' streams end, or end with their link.
        """
        session = self._session
        if instance != session.instance and server != self.server and self.server is not None:
            # A new process at the old place means that the old one is gone.
            if self._is_linked():
                return False
            if session.suspended.awaited():
                self._elsewhere = min(self._elsewhere, trio.current_time())
                if self.is_awaited:
                    return False
        if instance != session.instance and (awaited := session.suspended.awaited()):
            log.warning(
                "%d connections that waited for %s are reset: %s is another process",
                len(awaited),
                self.server,
                server if server != self.server else "what answers there now",
            )
        self.server, self._elsewhere = server, math.inf
        return True
