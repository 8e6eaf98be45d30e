"""What is captured: the addresses that the registry knows, on the ports that are mapped now."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

import trio

from tunnel_daemon.failure_log import FailureLog
from tunnel_daemon.http1 import HttpError
from tunnel_server.intercept.config import InterceptUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunnel_server.calls import Calls
    from tunnel_server.intercept.config import InterceptConfig
    from tunnel_server.intercept.interception import Interception
    from tunnel_server.mappings import PortMappings
    from tunnel_server.port_lists import PortLists
    from tunnel_server.registry import Registry

log = logging.getLogger(__name__)

_RETRY = 5.0
"""Seconds until the kernel is asked again for what it has refused."""


class PortUser(Protocol):
    """A frontend that serves the mapped ports only."""

    mappings: Mapping[int, int]
    localhost_ports: frozenset[int]


class Capturing:
    """Keeps interception and frontends in step with registry and port mappings."""

    def __init__(self, mappings: PortMappings, lists: PortLists) -> None:
        self.interception: Interception | None = None
        """Set before `capture`, where connections are to be captured at all."""
        self.problems: tuple[str, ...] = ()
        """Entries that do not count, each in a line."""
        self._mappings = mappings
        self._lists = lists
        self._changed = trio.Event()
        self._note_problems()

    def serve(self, registry: Registry, calls: Calls, frontends: Sequence[PortUser]) -> None:
        """Name those that are to be kept in step: from now on, before they let anybody in."""
        self._registry = registry
        self._calls = calls
        self._frontends = frontends
        self._tell_frontends()

    def addresses_changed(self) -> None:
        """The registry knows other addresses: `keep` will see to them."""
        self._changed.set()

    async def keep(self) -> None:
        """Follow the registry until cancelled."""
        failures = FailureLog(log, level=logging.ERROR)
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            try:
                await self.capture()
            except InterceptUnavailable as exc:
                failures.failed(str(exc), f"the captured addresses stay as they were: {exc}")
                self._changed.set()
                await trio.sleep(_RETRY)
            else:
                failures.over()

    async def mappings_changed(self) -> None:
        """Put mappings that were added or removed into force; raises HttpError for the admin API."""
        self._note_problems()
        try:
            await self.capture()
        except InterceptUnavailable as exc:
            raise HttpError(500, f"the mapping is kept, but is not in force: {exc}") from None

    async def configure(self, lists: PortLists, intercept: InterceptConfig) -> None:
        """Take other lists of ports, and other callers. Raises InterceptUnavailable, with nothing changed."""
        before, old = self._mappings.configure(lists.captured), self._lists
        self._lists = lists
        try:
            await self.capture(intercept)
        except BaseException:
            self._mappings.configure(before)
            self._lists = old
            self._tell_frontends()
            raise
        for problem in self._note_problems():
            log.warning("%s", problem)

    async def capture(self, intercept: InterceptConfig | None = None) -> None:
        """Put the addresses and ports that are known now into force, and other callers if given.

        Raises InterceptUnavailable. If another server takes the table over meanwhile, that one captures.
        """
        self._tell_frontends()
        if self.interception is not None:
            try:
                await self.interception.apply(
                    self._registry.addresses(), self._mappings.effective(), intercept
                )
            except RuntimeError:
                if self.interception is not None:
                    raise

    def _tell_frontends(self) -> None:
        mappings = self._mappings.effective()
        for frontend in self._frontends:
            frontend.mappings, frontend.localhost_ports = mappings, self._lists.localhost
        self._calls.localhost_ports = self._lists.localhost

    def _note_problems(self) -> list[str]:
        """Return those that are new."""
        known, self.problems = self.problems, (*self._lists.problems, *self._mappings.problems)
        return [problem for problem in self.problems if problem not in known]
