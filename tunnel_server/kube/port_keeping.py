"""Follows the ConfigMap with the lists of ports, and tells of its bad entries."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from tunnel_server.intercept.config import InterceptUnavailable
from tunnel_server.kube.events import About
from tunnel_server.kube.port_config import port_lists, problems_in, read_port_config
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.watching import Watcher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.events import Events
    from tunnel_server.kube.watch_set import WatchSet
    from tunnel_server.port_lists import PortLists

log = logging.getLogger(__name__)

_AGAIN = 5.0
"""Seconds until ports that could not be captured are tried again."""
_TOLD = 20
"""Bad entries of one ConfigMap that are told: the log and the status have all of them."""


class PortKeeper:
    """Has the ports be those of the ConfigMap, or the server's own where there is none."""

    def __init__(
        self,
        cluster: Cluster,
        config: ServerConfig,
        events: Events,
        watches: WatchSet,
        on_ports: Callable[[], Awaitable[None]],
    ) -> None:
        """Add the ConfigMap to `watches`.

        `on_ports` puts the lists into force; may raise InterceptUnavailable.
        """
        self.config = config
        """Whose lists count where the ConfigMap has none."""
        self._where = config.kubernetes.port_configmap
        self._events = events
        self._on_ports = on_ports
        self._found = watches.add(
            "configmap",
            Watcher(
                cluster, CONFIG_MAPS, read_port_config, self._other,
                namespace=self._where.namespace, name=self._where.name,
                lasting=config.kubernetes.watch_timeout,
            ),
        )  # fmt: skip
        self.listed = self._found.listed
        self._changed = trio.Event()

    def lists(self, config: ServerConfig) -> PortLists:
        """The lists of ports that are in force with this configuration."""
        return port_lists(config, self._found.objects.get(str(self._where)), self._where)

    async def run(self) -> None:
        """Keep the ports until cancelled. Never raises."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            self._tell()
            try:
                await self._on_ports()
            except InterceptUnavailable as error:
                log.error("the captured ports stay as they were: %s", error)  # noqa: TRY400 - no traceback
                self._changed.set()
                await trio.sleep(_AGAIN)

    def _other(self) -> None:
        self._changed.set()

    def _tell(self) -> None:
        found = self._found.objects.get(str(self._where))
        if found is None:
            log.info("there is no ConfigMap %s: the server's own lists of ports are in force", self._where)
            return
        about = About(CONFIG_MAPS, self._where.name, self._where.namespace, found.uid)
        for problem in problems_in(self.lists(self.config), self._where)[:_TOLD]:
            self._events.warn(about, "PortRefused", problem)
