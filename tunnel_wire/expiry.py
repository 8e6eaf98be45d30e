"""Suspended streams end when their grace is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from tunnel_wire.stream_state import EndCause
from tunnel_wire.timers import Timer

if TYPE_CHECKING:
    from tunnel_wire.session import Session


class Expiry:
    """Watches a session's suspended streams for as long as there are some. Create one whenever some come."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._timer = Timer(self._on_time, self._on_defect)
        self._set()

    def _set(self) -> None:
        if self._session.suspended:
            self._timer.set(self._session.suspended.next_due())
        else:
            self._timer.close()

    def _on_time(self) -> None:
        self._session.expire(trio.current_time())
        self._set()

    def _on_defect(self) -> None:
        self._session.end_suspended(EndCause.LINK_LOST)
