"""When to look at the server for a new certificate: at two thirds of the old one's life, and now and then.


The look itself is `tunnel_agent.renew`, in a process of its own. Nothing that goes wrong here ends the agent:
it has a third of its certificate's life left.
"""

from __future__ import annotations

import logging
import random
import time
from typing import TYPE_CHECKING, NoReturn

import trio

from certs.validity import BACK_DATED
from tunnel_agent.apart import ApartError, run_apart
from tunnel_agent.credentials import CERTIFICATE, Credentials, CredentialsError, load_credentials
from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.status import AgentStatus

log = logging.getLogger(__name__)

EARLIEST, LATEST = 0.60, 2 / 3
"""When a certificate is renewed, in parts of its life; anywhere in between, so that a thousand agents
that joined in one minute do not come in one minute."""
_FIRST_LOOK = 120.0
_RETRY, _RETRY_MAX = 60.0, 3600.0
_OF_WHAT_IS_LEFT = 1 / 8
"""The longest wait after a failure, in parts of the time that the certificate still has."""
_CLOCK_CHECK = 60.0
"""Seconds: the clock on the wall decides what is due, and may be set meanwhile."""
_TICK = 0.1
"""Shortest wait in seconds: the two clocks differ in their last digits."""
_USELESS = {"certificate-time", "revoked"}
"""The server's words for a certificate that it will not take again."""


class Renewal:
    """Looks after one agent's certificate."""

    def __init__(
        self,
        config: AgentConfig,
        status: AgentStatus,
        *,
        on_renewed: Callable[[], None],
        on_refused: Callable[[str, str], None] = lambda _serial, _why: None,
        uniform: Callable[[float, float], float] = random.uniform,
        clock: Callable[[], float] = time.time,
        known: Callable[[], dict[str, list[str]]] = dict,
    ) -> None:
        """Take `clock`, the one on the wall, in seconds since the epoch; `known`: what DNS said last of each
        name.

        `on_refused` is called with the serial of a certificate that the server does not take, and why.
        """
        self._config = config
        self._status = status
        self._on_renewed = on_renewed
        self._on_refused = on_refused
        self._look_every = config.refresh_interval
        self._uniform = uniform
        self._clock = clock
        self._known = known
        self._failures = FailureLog(log)
        self._share = uniform(EARLIEST, LATEST)
        self._read: tuple[tuple[int, int] | None, Credentials | None] = (None, None)

    def configure(self, config: AgentConfig) -> None:
        """Look at these servers from the next time on."""
        self._config = config

    async def run(self) -> NoReturn:
        """Look until cancelled; a look that is under way is then given up, and the files are as before or
        as after.
        """
        retries = self._retries()
        patient = False
        wait = self._uniform(0.0, min(_FIRST_LOOK, self._look_every))
        while True:
            await self._sleep(wait, until_due=not patient)
            due = self._left() <= 0
            if not due and self._status.linked_since is None:
                wait = min(_RETRY, self._look_every)
                continue
            try:
                await self._look(due=due)
            except ApartError as error:
                if error.code in _USELESS and self._read[1] is not None:
                    self._on_refused(self._read[1].serial, str(error))
                # One reason must not hide another; what comes behind it may say what time it is.
                reason = str(error).partition(";")[0]
                self._failures.failed(reason, f"the certificate could not be looked after: {error}")
                # At least a second, however the dice fall.
                wait = 1.0 + min(next(retries), self._longest_wait())
            else:
                self._failures.over()
                retries = self._retries()
                wait = self._look_every * self._uniform(0.9, 1.1)
            # What is due again at once failed, or was given by a server whose clock is far from ours. Not so
            # what became due during a look that was not for that.
            patient = due and self._left() <= 0

    def _retries(self) -> Iterator[float]:
        # Never rarer than looks that succeed.
        most = self._look_every
        return full_jitter(min(_RETRY, most), min(_RETRY_MAX, most), self._uniform)

    def _longest_wait(self) -> float:
        """Seconds: what is left of a certificate of some minutes must not pass between two tries."""
        held = self._held()
        left = held.not_after - self._clock() if held is not None else 0.0
        return left * _OF_WHAT_IS_LEFT if left > 0 else _RETRY_MAX

    async def _sleep(self, wait: float, *, until_due: bool) -> None:
        ends = trio.current_time() + wait
        while (left := ends - trio.current_time()) > 0:
            due_in = self._left() if until_due else left
            if due_in <= 0:
                return
            await trio.sleep(max(_TICK, min(left, due_in, _CLOCK_CHECK)))

    def _held(self) -> Credentials | None:
        """What is in the state directory now; None if that is of no use."""
        try:
            found = (self._config.state_dir / CERTIFICATE).stat()
            version = (found.st_ino, found.st_mtime_ns)
            if version != self._read[0]:
                self._read = (version, load_credentials(self._config.state_dir))
        except (OSError, CredentialsError):
            return None
        return self._read[1]

    def _left(self) -> float:
        """Seconds until the certificate is due; without a certificate, for ever."""
        held = self._held()
        if held is None:
            return float("inf")
        # A short-lived certificate that is mostly back-dated must not be due at its birth.
        issued = min(held.not_before + BACK_DATED.total_seconds(), held.not_after)
        return issued + self._share * (held.not_after - issued) - self._clock()

    async def _look(self, *, due: bool) -> None:
        config = self._config
        settings = {
            "state_dir": str(config.state_dir.absolute()),
            "servers": [str(server) for server in config.servers],
            "proxy": config.proxy.text,
            "timeout": config.connect_timeout,
            "due": due,
            "known": self._known(),
        }
        outcome = await run_apart("tunnel_agent.renew", settings)
        if outcome["trust"]:
            log.info("%s: the authority's certificates have changed, and are trusted", outcome["server"])
        if outcome["moved"]:
            log.info("%s: the servers' addresses have changed", outcome["server"])
        if outcome["renewed"]:
            why = outcome["why"] or "it was time"
            log.info("%s has renewed this agent's certificate: %s", outcome["server"], why)
            self._share = self._uniform(EARLIEST, LATEST)
            self._on_renewed()
