"""Keeps the agent linked: dials, carries, waits, and again, for as long as the process lives.

Nothing on the far side ends it: an absent server, dead DNS, a proxy in a bad mood or a clock that is years
off are each a reason to try again later, said in the log once and then ever more rarely.

When the certificate has been renewed, a second link is made with the new one; when the server says that it
goes, one to its successor, or to another server. New streams are opened on the newest link; the old one stays
until the last of its streams has ended, its certificate has, or its server goes.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NoReturn

import trio

from tunnel_agent.credentials import Credentials, CredentialsError, load_credentials
from tunnel_agent.dialling import Dialling, Round
from tunnel_agent.home import Home
from tunnel_agent.outbound_link import OutboundLink
from tunnel_agent.status import Waiting
from tunnel_agent.tls_errors import explain_end, is_refused
from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog
from tunnel_wire.flow import Budget
from tunnel_wire.limits import WireLimits
from tunnel_wire.link import LinkEnded
from tunnel_wire.session import Session

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    from tunnel_agent.config import AgentConfig
    from tunnel_agent.dialer import Dialer
    from tunnel_agent.endpoint import Endpoint
    from tunnel_agent.status import AgentStatus
    from tunnel_wire.hello import Hello
    from tunnel_wire.tls import TlsPump

log = logging.getLogger(__name__)

_WELCOME = 1.0
"""Seconds that a link has lived at least, for another one to be made at once when its server goes: one that
sends everybody away must not be dialled on and on."""
_HANDOVER = 5.0
"""Seconds that an old link stays at least beside a new one, so that no call falls between the two."""
_IDLE_CHECK = 1.0
"""Seconds between two looks whether an old link still carries something."""

_dialling = attrgetter("servers", "proxy", "backoff_min", "backoff_max", "failover_delay", "duplicate_delay")
"""Of a configuration: whom to dial, and when."""


@dataclass(slots=True)
class _Outcome:
    """How one round of dialling ended: what the next delay depends on."""

    lived: float = 0.0
    """Seconds between the server's hello and the link's end."""
    refused: bool = False
    """The server wants nothing of us for now: another machine has this certificate, or it is revoked."""
    go_on: bool = False
    """Another link is to be made beside this one, at once."""


class Supervisor:
    """One session, and the links that carry it. Links to several replicas would be several of these."""

    def __init__(
        self,
        config: AgentConfig,
        dialer: Dialer,
        status: AgentStatus,
        environment: Mapping[str, str],
        uniform: Callable[[float, float], float] = random.uniform,
        *,
        on_refused: Callable[[str, str], None] = lambda _serial, _why: None,
    ) -> None:
        """Take `on_refused`: called with the serial of a certificate that no server takes again, and why."""
        self._on_refused = on_refused
        self._config = config
        self._dialer = dialer
        self._status = status
        self._uniform = uniform
        self._failures = FailureLog(log)
        self._renewed = trio.Event()
        """There is a newer certificate than the one that was last read."""
        self._changed = trio.Event()
        """How to dial has changed."""
        self._links: dict[int, OutboundLink] = {}
        self._session = Session(
            budget=Budget(config.memory_budget),
            limits=WireLimits(max_streams=config.max_streams),
            first_key=1 << 63,  # for streams of stock peers, which bring none: apart from the server's keys
        )
        self._home = Home(
            self._session,
            lambda: any(each.stands for each in self._links.values()),
            failover_delay=config.failover_delay,
        )
        self._dialling = Dialling(
            config,
            environment,
            uniform,
            session=self._session,
            home=self._home,
            credentials=self._credentials,
            make=self._make,
            failed=self._failed,
        )
        status.waiting = self._waiting
        self._nursery: trio.Nursery | None = None
        """Of the links that run."""

    def renewed(self) -> None:
        """There is a new certificate on disk: put it to use at once, without ending anything."""
        self._renewed.set()
        self._renewed = trio.Event()
        self._wake()

    def configure(self, config: AgentConfig) -> None:
        """Obey this from now on. Links stay; who waits, and would dial otherwise now, dials at once."""
        before, self._config, self._dialling.config = self._config, config, config
        self._session.budget.total = config.memory_budget
        self._home.failover_delay = config.failover_delay
        if _dialling(config) != _dialling(before):
            self._wake()

    def _waiting(self) -> Waiting:
        awaited = self._session.suspended.awaited()
        pooled = sum(stream.is_pooled for stream in awaited)
        return Waiting(len(awaited), pooled, str(self._home.server) if self._home.is_awaited else "")

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def run(self) -> NoReturn:
        """Stay linked until cancelled; cancelled, all links are closed at once."""
        async with trio.open_nursery() as self._nursery:
            for _ in range(self._config.links - 1):
                self._nursery.start_soon(self._keep)
            await self._keep()

    async def _keep(self) -> NoReturn:
        """Keep one link."""
        delays = self._delays()
        while True:
            changed = self._changed
            outcome = await self._round()
            if outcome.lived >= self._config.useful_after:
                delays = self._delays()
                self._failures.over()
            if outcome.go_on:
                delays = self._delays()
                continue
            if changed.is_set():
                changed, delays = self._changed, self._delays()
            delay = next(delays)
            if self._session.suspended.awaited():
                delay = min(delay, self._dialling.pause())
            if outcome.refused:
                delay += self._config.duplicate_delay
            log.debug("dialling again in %.1f s", delay)
            with trio.move_on_after(delay):
                await changed.wait()

    def _delays(self) -> Iterator[float]:
        return full_jitter(self._config.backoff_min, self._config.backoff_max, self._uniform)

    async def _round(self) -> _Outcome:
        """Try each server once; stay with the first link that is of use, until it ends or is superseded."""
        outcome = _Outcome()
        tried = self._dialling.round()
        while tried is not None:
            made = await self._dialling.link(tried)
            if made is None:
                break
            outcome = await self._stay(made)
            useful = outcome.lived >= self._config.useful_after
            if useful or outcome.refused or outcome.go_on or self._session.suspended.awaited():
                break
            # One that accepts and then says nothing, or drains at once, must not hide the next.
        return outcome

    async def _stay(self, made: OutboundLink) -> _Outcome:
        """Wait until the link has ended, or another one is wanted beside it."""
        async with trio.open_nursery() as waiting:

            async def wait(event: trio.Event) -> None:
                await event.wait()
                waiting.cancel_scope.cancel()

            for event in (made.ended, made.renewed, made.leaving):
                waiting.start_soon(wait, event)
        outcome = _Outcome(made.lived, made.refused)
        if not made.ended.is_set():
            outcome.go_on = made.renewed.is_set() or outcome.lived >= _WELCOME
            made.retiring = True
            assert self._nursery is not None
            self._nursery.start_soon(self._retire, made)
        return outcome

    # --- what dialling asks for ---------------------------------------------------------------------

    def _credentials(self) -> tuple[Credentials, trio.Event] | None:
        renewed = self._renewed
        try:
            credentials = load_credentials(self._config.state_dir, log_secrets=not self._config.openssl_only)
        except CredentialsError as error:
            self._failed("credentials", str(error))
            return None
        self._status.node = credentials.identity.name
        self._dialer.node_addresses = credentials.addresses
        if problem := credentials.clock_problem(time.time()):
            # Tried nevertheless: it is the server's clock that decides.
            self._failed("clock", problem)
        return credentials, renewed

    def _make(
        self,
        sock: socket.socket,
        pump: TlsPump,
        server: Endpoint,
        tried: Round,
        admits: Callable[[OutboundLink, Hello], bool],
    ) -> OutboundLink:
        up = {index for index, each in self._links.items() if each.up_at is not None and not each.link.ended}
        index = next(index for index in range(len(self._links) + 1) if index not in self._links)
        made = self._links[index] = OutboundLink(
            sock,
            pump,
            server,
            tried.credentials,
            session=self._session,
            version=self._status.version,
            index=index,
            others=up,
            renewed=tried.renewed,
            admits=admits,
            on_up=lambda made: self._status.linked(str(made.server)),
            on_request=self._dialer.on_request,
            on_useless=self._on_refused,
        )
        assert self._nursery is not None
        self._nursery.start_soon(self._carry, made)
        return made

    def _failed(self, kind: str, text: str) -> None:
        self._status.failed(text)
        self._failures.failed(kind, text)

    # --- links ------------------------------------------------------------------------------------

    async def _carry(self, made: OutboundLink) -> None:
        server = made.server
        try:
            await made.link.run()
        except LinkEnded as ended:
            if made.given_up:
                log.debug("%s: given up: %s", server, ended)
            elif made.retiring:
                log.info("%s: the former link ended: %s", server, ended)
            elif made.up_at is not None:
                self._failed(f"{server}:ended", f"{server}: the link ended after {made.lived:.0f} s: {ended}")
            else:
                text = explain_end(str(ended))
                if is_refused(str(ended)):
                    self._on_refused(made.serial, text)
                self._failed(f"{server}:refused", f"{server}: {text}")
        finally:
            del self._links[made.index]
            if all(each.up_at is None for each in self._links.values()):
                self._status.unlinked()
            made.over()

    async def _retire(self, made: OutboundLink) -> None:
        """Close the link once a newer one is up and it carries nothing.

        The server ends it at the latest when its certificate does, or when it goes itself.
        """
        while not made.ended.is_set():
            newer_since = max(
                (each.up_at or 0.0 for each in self._links.values() if each.stands), default=0.0
            )
            if newer_since and trio.current_time() >= newer_since + _HANDOVER and not self._carries(made):
                made.link.close("a newer link has taken over")
                return
            with trio.move_on_after(_IDLE_CHECK):
                await made.ended.wait()

    def _carries(self, made: OutboundLink) -> bool:
        return any(stream.connection is made.connection for stream in self._session.streams.values())
