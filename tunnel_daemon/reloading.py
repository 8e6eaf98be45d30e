"""The configuration taken again while a program runs, on SIGHUP and when its file changes.

Whole or not at all: a file with a mistake, or one that asks for what cannot be had (a listener whose port is
taken), changes nothing. What needs a restart is named, and keeps its value.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

import trio

from tunnel_daemon.program import ProgramError
from tunnel_daemon.settings import SettingsError, SettingsUnreadableError
from tunnel_daemon.settings_changes import applicable, changes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")

log = logging.getLogger(__name__)

_LOOK_EVERY = 1.0
"""Seconds between two looks at the file; it is read when two of them in a row find the same new version."""

_Version: TypeAlias = tuple[int, int, int]


class Source(Generic[S]):
    """Where the configuration comes from."""

    def __init__(self, path: Path, load: Callable[[], S]) -> None:
        """Take `load`: the settings of the file, if there is one, with the command line's over them."""
        self.path = path
        self.version: _Version | None = None
        """The file at the last `read`, so that no change between two of them is missed; None without one."""
        self._load = load
        self._existed = False

    def read(self) -> S:
        """Return the settings; raises SettingsError, also where the file was there before and is gone."""
        self.version = self.look()
        self._existed |= self.version is not None
        # Without a file there are the defaults: not what whoever removed it had in mind.
        if self._existed and self.version is None:
            raise SettingsError([f"{self.path} is gone"])
        return self._load()

    def look(self) -> _Version | None:
        """Return what tells one version of the file from another."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


class Reloader(Generic[S]):
    """Keeps the running configuration in step with its source."""

    def __init__(
        self,
        config: S,
        source: Source[S],
        apply: Callable[[S], Awaitable[None]],
        *,
        refusals: tuple[type[Exception], ...] = (),
    ) -> None:
        """Take what `source` last read, and `apply`.

        That puts a configuration into force as a whole, or raises with nothing changed: a ProgramError or
        one of the `refusals`, whose text is for the operator.
        """
        self.config = config
        """In force."""
        self.problems: tuple[str, ...] = ()
        """Why the file as it stands is not in force; none if it is."""
        self._source = source
        self._apply = apply
        self._refusals: tuple[type[Exception], ...] = (SettingsError, ProgramError, *refusals)
        self._lock = trio.Lock()
        self._unread = False
        """The file could not be read when it was time to."""

    async def watch(self) -> None:
        """Look at the file until cancelled."""
        previous = self._source.version
        while True:
            await trio.sleep(_LOOK_EVERY)
            found = self._source.look()
            # Who writes in several goes shall not be read half-way.
            if found == previous and (self._unread or found != self._source.version):
                await self.reload(again=self._unread)
            previous = found

    async def reload(self, *, again: bool = False) -> None:
        """Read the configuration and put it into force, or log why that stays as it was. Never raises.

        With `again`, what has been logged is not logged once more.
        """
        async with self._lock:
            told = self.problems if again else ()
            self._unread = False
            try:
                await self._take(await trio.to_thread.run_sync(self._source.read))
            except self._refusals as error:
                self.problems = tuple(error.problems if isinstance(error, SettingsError) else [str(error)])
                self._unread = isinstance(error, SettingsUnreadableError)
                for problem in self.problems:
                    if problem not in told:
                        log.error("the configuration stays as it was: %s", problem)  # noqa: TRY400
            except Exception:
                # A defect must not end a program that works.
                self.problems = ("internal error; the log has more",)
                log.exception("the configuration stays as it was")
            else:
                self.problems = ()

    async def _take(self, wanted: S) -> None:
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
