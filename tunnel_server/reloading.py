"""The configuration taken again while the server runs, on SIGHUP and when its file changes.

Whole or not at all: a file with a mistake, or one that asks for what cannot be had (a listener whose port is
taken), changes nothing. What needs a restart is named, and keeps its value.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from certs.files import StateError
from tunnel_daemon.program import ProgramError
from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_changes import applicable, changes
from tunnel_server.intercept.config import InterceptUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tunnel_server.config import ServerConfig

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks at the file; it is read when two of them in a row find the same new version."""

_Version: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True)
class Source:
    """Where the configuration comes from."""

    path: Path
    read: Callable[[], ServerConfig]
    """The file's settings with the command line's over them; raises SettingsError."""


class Reloader:
    """Keeps the running configuration in step with its source."""

    def __init__(
        self,
        config: ServerConfig,
        source: Source,
        apply: Callable[[ServerConfig], Awaitable[None]],
    ) -> None:
        """Take `apply`, which puts a configuration into force as a whole or raises with nothing changed."""
        self.config = config
        """In force."""
        self.problems: tuple[str, ...] = ()
        """Why the file as it stands is not in force; none if it is."""
        self._source = source
        self._apply = apply
        self._version = self._look()
        self._existed = self._version is not None
        self._lock = trio.Lock()

    async def watch(self) -> None:
        """Look at the file until cancelled."""
        previous = self._version
        while True:
            await trio.sleep(_LOOK_EVERY)
            found = self._look()
            # Who writes in several goes shall not be read half-way.
            if found != self._version and found == previous:
                await self.reload()
            previous = found

    async def reload(self) -> None:
        """Read the configuration and put it into force, or log why that stays as it was. Never raises."""
        async with self._lock:
            self._version = self._look()
            self._existed |= self._version is not None
            try:
                # Without a file there are the defaults: not what whoever removed it had in mind.
                if self._existed and self._version is None:
                    raise SettingsError([f"{self._source.path} is gone"])
                wanted = await trio.to_thread.run_sync(self._source.read)
                await self._take(wanted)
            except (SettingsError, ProgramError, InterceptUnavailable, StateError) as error:
                self.problems = tuple(error.problems if isinstance(error, SettingsError) else [str(error)])
                for problem in self.problems:
                    log.error("the configuration stays as it was: %s", problem)  # noqa: TRY400
            except Exception:
                # A defect must not end a server that works.
                self.problems = ("internal error; the log has more",)
                log.exception("the configuration stays as it was")
            else:
                self.problems = ()

    async def _take(self, wanted: ServerConfig) -> None:
        config = applicable(self.config, wanted)
        taken = list(changes(self.config, config))
        if taken:
            await self._apply(config)
        self.config = config
        for change in taken:
            log.info("configuration: %s", change)
        for change in changes(config, wanted):
            log.warning("configuration: %s needs a restart; until then it stays %s", change, change.old)
        if not taken:
            log.info("configuration read: nothing changes")

    def _look(self) -> _Version | None:
        try:
            found = self._source.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size
