"""When an agent in a cluster asks for an identity: it has none, or another node's, or one of no more use.

The asking itself is `tunnel_agent.attest`, in a process of its own. An agent that has an identity needs none
of all this, neither token nor CA file nor any name: it starts while the cluster is away.
"""

from __future__ import annotations

import logging
import math
import random
import ssl
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import trio

from certs.files import StateDirectory, StateError
from tunnel_agent.apart import ApartError, run_apart
from tunnel_agent.ca_file import CaFileError, follow
from tunnel_agent.credentials import CERTIFICATE, KEY, CredentialsError, load_credentials
from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.status import AgentStatus

log = logging.getLogger(__name__)

_LOOK_EVERY = 20.0
"""Seconds between two looks at the files and at the clock."""
_PAUSE = 1.0
"""Seconds between two tries at least, however the dice fall: each is a process."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a look has found."""

    usable: bool
    """There is a certificate of this node: worth dialling with, even if a clock says that it has expired."""
    why: str
    """Why another one is needed; empty if none is."""
    serial: str = ""
    not_after: float = math.inf
    """Seconds since the epoch."""


class Attestation:
    """Looks after one agent's having an identity at all; `tunnel_agent.renewal` keeps it fresh."""

    def __init__(
        self,
        config: AgentConfig,
        status: AgentStatus,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.time,
        known: Callable[[], dict[str, list[str]]] = dict,
    ) -> None:
        """Take `clock`, the one on the wall, in seconds since the epoch; `known`: what DNS said last of each
        name.
        """
        self._config = config
        self._status = status
        self._uniform = uniform
        self._clock = clock
        self._known = known
        self._failures = FailureLog(log)
        self._poked = trio.Event()
        self._refused = ("", "")
        """The serial of a certificate that the server does not take, and why."""
        self._seen: tuple[object, ...] = ()
        self._found = _Found(usable=False, why="")
        self.ready = trio.Event()
        """There is something to dial with."""

    def configure(self, config: AgentConfig) -> None:
        """Ask these servers from now on; if one is being asked in vain, soon."""
        self._config = config
        self._poked.set()

    def refused(self, serial: str, why: str) -> None:
        """The server does not take the certificate of this serial any more."""
        if serial != self._refused[0]:
            self._refused = (serial, why)
            self._poked.set()

    async def run(self, on_identity: Callable[[], None]) -> NoReturn:
        """Look until cancelled; asking is then given up, and the files are as before or as after.

        `on_identity` is called when there is a new one. Raises StateError for a state directory that cannot
        be used at all.
        """
        state = await trio.to_thread.run_sync(StateDirectory.create, self._config.state_dir)
        delays = self._delays()
        while True:
            self._poked = trio.Event()
            found = await trio.to_thread.run_sync(self._look, state)
            if found.usable:
                self.ready.set()
            wait = _LOOK_EVERY
            if found.why:
                try:
                    await self._attest(found.why)
                except ApartError as error:
                    text = f"no certificate could be had: {error}"
                    self._status.failed(text)
                    self._failures.failed(error.code or str(error), text)
                    wait = _PAUSE + next(delays)
                else:
                    self._failures.over()
                    on_identity()
                    delays, wait = self._delays(), 0.0
            else:
                delays = self._delays()
            with trio.move_on_after(wait):
                await self._poked.wait()

    def _delays(self) -> Iterator[float]:
        return full_jitter(self._config.backoff_min, self._config.backoff_max, self._uniform)

    def _look(self, state: StateDirectory) -> _Found:
        """See what is there, if that has changed. Blocks on files."""
        assert self._config.ca_file is not None
        watched = (state.path / CERTIFICATE, state.path / KEY, self._config.ca_file)
        seen = tuple(map(_version, watched))
        if seen != self._seen:
            self._found = self._examine(state, self._config.ca_file)
            self._seen = seen
        found = self._found
        if found.usable and not found.why:
            if self._refused[0] == found.serial:
                return replace(found, why=self._refused[1])
            if self._clock() > found.not_after:
                return replace(found, why="its certificate has expired")
        return found

    def _examine(self, state: StateDirectory, ca_file: Path) -> _Found:
        try:
            if not state.exists(CERTIFICATE):
                return _Found(usable=False, why="it has no certificate yet")
            held = load_credentials(state.path)
        except (CredentialsError, StateError) as error:
            return _Found(usable=False, why=str(error))
        name = held.identity.name
        if name != self._config.node_name:
            return _Found(usable=False, why=f"the certificate in {state.path} is that of {name}")
        try:
            why = follow(ca_file, state)
        except (CaFileError, StateError, ssl.SSLError) as error:
            # Not needed, as long as the certificate is good.
            log.warning("the same authority as before is trusted: %s", error)
            why = ""
        return _Found(usable=True, why=why, serial=held.serial, not_after=held.not_after)

    async def _attest(self, why: str) -> None:
        config = self._config
        log.info("asking for a certificate of %s: %s", config.node_name, why)
        outcome = await run_apart(
            "tunnel_agent.attest",
            {
                "state_dir": str(config.state_dir.absolute()),
                "servers": [str(server) for server in config.servers],
                "proxy": config.proxy.text,
                "timeout": config.connect_timeout,
                "node": config.node_name,
                "token_file": str(config.service_account_token),
                "ca_file": str(config.ca_file),
                "known": self._known(),
            },
        )
        log.info("%s has attested this agent as %s", outcome["server"], outcome["node"])


def _version(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
